//! A headless Chromium, driven over WebDriver: JSON over HTTP.
//! W3C, *WebDriver*, 2018, <https://www.w3.org/TR/webdriver/>.

use super::skip;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The programs under the names that distributions give them.
const DRIVERS: [&str; 2] = ["chromedriver", "chromium.chromedriver"];
const BROWSERS: [&str; 4] = [
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
];

/// What is not so by then never will be.
const PATIENCE: Duration = Duration::from_secs(60);

/// How a page is looked at.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    pub width: u32,
    pub height: u32,
    pub dark: bool,
}

impl Window {
    pub const LIGHT: Window = Window {
        width: 1280,
        height: 1000,
        dark: false,
    };
}

/// One browser with one page; both end with this value.
pub struct Browser {
    driver: Child,
    session: String,
    agent: ureq::Agent,
    /// The profile and whatever else the browser writes.
    _home: tempfile::TempDir,
}

impl Browser {
    /// Opens a file; `None`, aloud, where this machine has no Chromium.
    pub fn open(page: &Path, window: Window) -> Option<Browser> {
        let (Some(driver), Some(browser)) = (find(&DRIVERS), find(&BROWSERS)) else {
            skip("no chromium and chromedriver, which ./scripts/test installs on Debian");
            return None;
        };
        let home = tempfile::tempdir().unwrap();
        let mut driver = Command::new(driver)
            .arg("--port=0")
            .env("HOME", home.path())
            .env("TMPDIR", home.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port: u16 = lines
            .by_ref()
            .map(Result::unwrap)
            .find_map(|line| {
                let port = line.split_once("started successfully on port ")?.1;
                port.trim_end_matches('.').parse().ok()
            })
            .expect("the driver names its port");
        // It stops where nobody reads what it says.
        std::thread::spawn(move || lines.for_each(drop));
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            .build()
            .into();
        let mut browser_arguments = vec![
            "--headless=new".to_owned(),
            "--disable-gpu".to_owned(),
            "--disable-dev-shm-usage".to_owned(),
            "--no-first-run".to_owned(),
            "--force-device-scale-factor=1".to_owned(),
            format!("--window-size={},{}", window.width, window.height),
            format!("--user-data-dir={}", home.path().join("profile").display()),
        ];
        if is_root() {
            // The sandbox refuses root, as whom CI runs; the page is ours.
            browser_arguments.push("--no-sandbox".to_owned());
        }
        let capabilities = json!({"capabilities": {"alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": {"binary": browser, "args": browser_arguments},
            "goog:loggingPrefs": {"browser": "ALL"},
        }}});
        let mut this = Browser {
            driver,
            session: format!("http://127.0.0.1:{port}/session"),
            agent,
            _home: home,
        };
        let started = this.post("", capabilities);
        let id = started["sessionId"].as_str().unwrap().to_owned();
        this.session = format!("{}/{id}", this.session);
        // Narrower than a window can be, and with the colours that were asked for.
        this.devtools(
            "Emulation.setDeviceMetricsOverride",
            json!({"width": window.width, "height": window.height, "deviceScaleFactor": 1, "mobile": false}),
        );
        this.set_dark(window.dark);
        this.go(page);
        Some(this)
    }

    /// Opens another file.
    pub fn go(&self, page: &Path) {
        let page = std::fs::canonicalize(page).unwrap();
        self.post("/url", json!({"url": format!("file://{}", page.display())}));
    }

    /// Changes what the system is said to prefer.
    pub fn set_dark(&self, dark: bool) {
        let value = if dark { "dark" } else { "light" };
        self.devtools(
            "Emulation.setEmulatedMedia",
            json!({"features": [
                {"name": "prefers-color-scheme", "value": value},
                // Nothing is clicked while it still scrolls.
                {"name": "prefers-reduced-motion", "value": "reduce"},
            ]}),
        );
    }

    /// What a function body returns.
    pub fn run(&self, script: &str) -> Value {
        self.post("/execute/sync", json!({"script": script, "args": []}))
    }

    /// What an expression says as text.
    pub fn text(&self, expression: &str) -> String {
        let value = self.run(&format!("return String({expression})"));
        value.as_str().unwrap().to_owned()
    }

    /// What an expression says as a number.
    pub fn number(&self, expression: &str) -> f64 {
        let value = self.run(&format!("return Number({expression})"));
        value.as_f64().unwrap_or(f64::NAN)
    }

    /// Waits until an expression is true.
    pub fn until(&self, expression: &str) {
        let started = Instant::now();
        while self.run(&format!("return Boolean({expression})")) != true {
            assert!(
                started.elapsed() < PATIENCE,
                "never true: {expression}; the console says {:?}",
                self.console()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Moves the pointer there, in pixels of the window.
    pub fn point_at(&self, x: f64, y: f64) {
        self.pointer(json!([movement(x, y)]));
    }

    /// Presses and releases the button there.
    pub fn click(&self, x: f64, y: f64) {
        self.pointer(json!([
            movement(x, y),
            {"type": "pointerDown", "button": 0},
            {"type": "pointerUp", "button": 0},
        ]));
    }

    /// Clicks twice in a row there.
    pub fn double_click(&self, x: f64, y: f64) {
        let press = [
            json!({"type": "pointerDown", "button": 0}),
            json!({"type": "pointerUp", "button": 0}),
        ];
        let twice = press.iter().cycle().take(4).cloned();
        let actions: Vec<Value> = std::iter::once(movement(x, y)).chain(twice).collect();
        self.pointer(json!(actions));
    }

    /// Drags from one place to another.
    pub fn drag(&self, from: (f64, f64), to: (f64, f64)) {
        self.pointer(json!([
            movement(from.0, from.1),
            {"type": "pointerDown", "button": 0},
            movement((from.0 + to.0) / 2.0, (from.1 + to.1) / 2.0),
            movement(to.0, to.1),
            {"type": "pointerUp", "button": 0},
        ]));
    }

    fn pointer(&self, actions: Value) {
        self.post(
            "/actions",
            json!({"actions": [{
                "type": "pointer", "id": "mouse", "parameters": {"pointerType": "mouse"}, "actions": actions,
            }]}),
        );
    }

    /// Moves two fingers on a line through a place apart, from one distance between them to another.
    pub fn pinch(&self, x: f64, y: f64, from: f64, to: f64) {
        const STEPS: u32 = 4;
        self.devtools(
            "Emulation.setTouchEmulationEnabled",
            json!({"enabled": true, "maxTouchPoints": 2}),
        );
        let touch = |kind: &str, points: Value| {
            self.devtools(
                "Input.dispatchTouchEvent",
                json!({"type": kind, "touchPoints": points}),
            )
        };
        let fingers = |distance: f64| {
            json!([
                {"x": x - distance / 2.0, "y": y, "id": 0},
                {"x": x + distance / 2.0, "y": y, "id": 1},
            ])
        };
        touch("touchStart", fingers(from));
        for step in 1..=STEPS {
            let distance = from + (to - from) * f64::from(step) / f64::from(STEPS);
            touch("touchMove", fingers(distance));
        }
        touch("touchEnd", json!([]));
    }

    /// Turns the wheel there.
    pub fn wheel(&self, x: f64, y: f64, by: i32) {
        self.post(
            "/actions",
            json!({"actions": [{"type": "wheel", "id": "wheel", "actions": [
                {"type": "scroll", "x": x as i64, "y": y as i64, "deltaX": 0, "deltaY": by, "origin": "viewport"},
            ]}]}),
        );
    }

    /// Types keys, one after another, into what has the focus.
    pub fn keys(&self, keys: &[&str]) {
        let actions: Vec<Value> = keys
            .iter()
            .flat_map(|key| ["keyDown", "keyUp"].map(|kind| json!({"type": kind, "value": key})))
            .collect();
        self.post(
            "/actions",
            json!({"actions": [{"type": "key", "id": "keyboard", "actions": actions}]}),
        );
    }

    /// Holds a key down, or lets it go.
    pub fn hold(&self, key: &str, down: bool) {
        let kind = if down { "keyDown" } else { "keyUp" };
        self.post(
            "/actions",
            json!({"actions": [{
                "type": "key", "id": "keyboard", "actions": [{"type": kind, "value": key}],
            }]}),
        );
    }

    /// Clicks the middle of the first element that a CSS selector finds.
    pub fn click_on(&self, selector: &str) {
        let id = self.find(selector);
        self.post(&format!("/element/{id}/click"), json!({}));
    }

    fn find(&self, selector: &str) -> String {
        let found = self.post(
            "/element",
            json!({"using": "css selector", "value": selector}),
        );
        let id = found.as_object().unwrap().values().next().unwrap();
        id.as_str().unwrap().to_owned()
    }

    /// Warnings and errors on the console since the last call.
    pub fn console(&self) -> Vec<String> {
        let entries = self.post("/se/log", json!({"type": "browser"}));
        entries
            .as_array()
            .unwrap()
            .iter()
            .map(|entry| entry["message"].to_string())
            .collect()
    }

    /// Saves the whole page as PNG, whatever its length.
    pub fn screenshot_of_page(&self, path: &Path) {
        let height = self.number("document.documentElement.scrollHeight");
        let width = self.number("innerWidth");
        let clip = json!({"x": 0, "y": 0, "width": width, "height": height, "scale": 1});
        let shot = self.devtools(
            "Page.captureScreenshot",
            json!({"captureBeyondViewport": true, "clip": clip}),
        );
        std::fs::write(
            path,
            STANDARD.decode(shot["data"].as_str().unwrap()).unwrap(),
        )
        .unwrap();
    }

    fn devtools(&self, command: &str, parameters: Value) -> Value {
        self.post(
            "/goog/cdp/execute",
            json!({"cmd": command, "params": parameters}),
        )
    }

    fn post(&self, path: &str, body: Value) -> Value {
        let url = format!("{}{path}", self.session);
        let sent = self.agent.post(&url).send(body.to_string());
        answer(&url, sent)
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The driver ends the browser that it started.
        let _ = self.agent.delete(&self.session).call();
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

fn answer(url: &str, sent: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Value {
    let mut response = sent.unwrap_or_else(|error| panic!("{url}: {error}"));
    // A screenshot may be large.
    let body = response
        .body_mut()
        .with_config()
        .limit(1 << 28)
        .read_to_string();
    let body: Value = serde_json::from_str(&body.unwrap()).unwrap();
    assert!(
        response.status().is_success(),
        "{url}: {}",
        body["value"]["message"]
    );
    body["value"].clone()
}

fn movement(x: f64, y: f64) -> Value {
    json!({"type": "pointerMove", "duration": 20, "x": x.round() as i64, "y": y.round() as i64, "origin": "viewport"})
}

fn find(names: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    names
        .iter()
        .flat_map(|name| std::env::split_paths(&path).map(move |folder| folder.join(name)))
        .find(|program| program.is_file())
}

fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    status.lines().any(|line| line.starts_with("Uid:\t0\t"))
}
