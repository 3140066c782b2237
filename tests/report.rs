//! `report.html` in a real browser, and `p8 report`, which makes it again.

use crate::support::browser::{Browser, Window};
use crate::support::{Images as Pictures, P8, metrics, names, repository, scores};
use p8::image::{Preprocess, Rgb8, thumbnail};
use p8::output::metrics::Metrics;
use p8::output::report::{Collector, Found, Images, MAX_POINTS, Report, Scaling};
use p8::output::shard::ShardRow;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// Folders of the pictures: one of them is code where it is not escaped.
const FOLDERS: [&str; 3] = ["apple", "<script>alert(1)<", "größe \"x\" & y"];

/// The colour of most of a picture.
fn colour(number: u32) -> [u8; 3] {
    [
        (number * 53 % 200) as u8 + 40,
        (number * 97 % 200) as u8 + 40,
        (number * 31 % 200) as u8 + 40,
    ]
}

/// Twelve pictures that are known by their colours.
fn coloured() -> Pictures {
    let images = Pictures::new(0);
    for number in 0..12 {
        let [r, g, b] = colour(number);
        let picture = image::RgbImage::from_fn(120, 80, |x, y| {
            let stripe = (x / (2 + number) + y / (1 + number * number % 9)) % 4 == 0;
            image::Rgb(if stripe {
                [r / 2, g / 2, b / 2]
            } else {
                [r, g, b]
            })
        });
        let mut bytes = std::io::Cursor::new(Vec::new());
        picture
            .write_to(&mut bytes, image::ImageFormat::Png)
            .unwrap();
        let folder = FOLDERS[number as usize % 3];
        images.file(&format!("{folder}/{number:02}.png"), bytes.get_ref());
    }
    images.file(
        "apple/copy.png",
        &std::fs::read(images.path().join("apple/03.png")).unwrap(),
    );
    images.file("apple/broken.jpg", b"not an image");
    images
}

/// A finished run over them.
struct Made {
    images: Pictures,
    folder: tempfile::TempDir,
}

impl Made {
    fn new() -> Self {
        let made = Made {
            images: coloured(),
            folder: tempfile::tempdir().unwrap(),
        };
        P8::small(2, made.images.path(), &made.output())
            .args(["-k", "5"])
            .succeed();
        made
    }

    fn output(&self) -> PathBuf {
        self.folder.path().join("out")
    }

    fn page(&self) -> PathBuf {
        self.output().join("report.html")
    }
}

/// Points of the map that have room around them, so that the pointer means no other one.
fn lone_points(browser: &Browser) -> Vec<usize> {
    let found = browser.run(
        "const all = p8.paths.map((_, i) => p8.place(i));
         return all.map((a, i) => i).filter((i) => all.every((b, j) =>
           i === j || Math.hypot(all[i].x - b.x, all[i].y - b.y) > 16));",
    );
    let found: Vec<usize> = serde_json::from_value(found).unwrap();
    assert!(found.len() >= 4, "{found:?}");
    found
}

fn place(browser: &Browser, point: usize) -> (f64, f64) {
    let x = browser.number(&format!("p8.place({point}).x"));
    (x, browser.number(&format!("p8.place({point}).y")))
}

/// Where a picture for people goes.
fn screenshot(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("screenshots");
    std::fs::create_dir_all(&folder).unwrap();
    folder.join(name)
}

fn assert_silent(browser: &Browser) {
    assert_eq!(browser.console(), Vec::<String>::new());
}

#[test]
fn the_pointer_shows_the_right_picture_path_label_and_scores() {
    let made = Made::new();
    let Some(browser) = Browser::open(&made.page(), Window::LIGHT) else {
        return;
    };
    let (_, rows) = scores(&made.output());
    assert_eq!(browser.number("p8.points"), 13.0);
    browser.run(
        "document.getElementById('plot').scrollIntoView({block: 'center', behavior: 'instant'})",
    );
    for point in lone_points(&browser) {
        let (x, y) = place(&browser, point);
        browser.point_at(x, y);
        let row = &rows[point];
        browser.until("!document.getElementById('tip').hidden");
        browser.until("document.querySelector('#tip .picture[data-painted]')");
        assert_eq!(
            browser.text("document.querySelector('#tip .path').textContent"),
            row[0]
        );
        assert_eq!(
            browser.text("document.querySelector('#tip .label').textContent"),
            row[1]
        );
        let shown = browser.text("document.querySelector('#tip dd').textContent");
        let shown: f64 = shown.replace('\u{2212}', "-").parse().unwrap();
        let score: f64 = row[2].parse().unwrap();
        // Four digits, and 65535 steps from the lowest to the highest.
        assert!(
            (shown - score).abs() <= 2e-3 * score.abs().max(1.0),
            "{shown} {score}"
        );

        let name = Path::new(&row[0]).file_stem().unwrap().to_str().unwrap();
        let number = name.parse().unwrap_or(3);
        let seen: Vec<f64> = serde_json::from_value(browser.run(
            "const c = document.querySelector('#tip .picture');
             const { data } = c.getContext('2d').getImageData(0, 0, c.width, c.height);
             const count = new Map();
             let best = [0, 0, 0], most = 0;
             for (let i = 0; i < data.length; i += 4) {
               const key = [data[i] >> 3, data[i + 1] >> 3, data[i + 2] >> 3].join();
               const sum = count.get(key) ?? [0, 0, 0, 0];
               for (let c = 0; c < 3; c++) sum[c] += data[i + c];
               count.set(key, sum);
               if (++sum[3] > most) { most = sum[3]; best = sum.slice(0, 3).map((s) => s / sum[3]); }
             }
             return [...best, c.width / c.height];",
        ))
        .unwrap();
        for (seen, expected) in seen.iter().zip(colour(number)) {
            assert!(
                (seen - f64::from(expected)).abs() < 40.0,
                "{}: {seen:?} {:?}",
                row[0],
                colour(number)
            );
        }
        assert!(
            (seen[3] - 1.5).abs() < 0.1,
            "120 by 80 pixels look like it: {}",
            seen[3]
        );
    }
    // Away from all points there is nothing to tell.
    browser.point_at(3.0, 3.0);
    browser.until("document.getElementById('tip').hidden");
    assert_silent(&browser);
}

#[test]
fn the_legend_filters_and_the_axes_change() {
    let made = Made::new();
    let Some(browser) = Browser::open(&made.page(), Window::LIGHT) else {
        return;
    };
    let shown = "document.getElementById('shown').textContent";
    let picture = || browser.text("document.getElementById('points').toDataURL()");
    assert_eq!(browser.text(shown), "13 images");
    browser.screenshot_of_page(&screenshot("light.png"));
    let labels = browser
        .run("return [...document.querySelectorAll('#legend .name')].map((e) => e.textContent)");
    let expected: Vec<&str> = vec!["<script>alert(1)<", "apple", "größe \"x\" & y"];
    assert_eq!(labels, serde_json::json!(expected));
    let all = picture();
    browser.click_on("#legend li:nth-child(2) button");
    browser.until("document.getElementById('shown').textContent === '8 of 13 images'");
    browser.until(&format!(
        "document.getElementById('points').toDataURL() !== '{all}'"
    ));
    // What is hidden does not answer.
    let apple = browser.number("p8.paths.findIndex((path) => path.includes('/apple/'))") as usize;
    browser.run(
        "document.getElementById('plot').scrollIntoView({block: 'center', behavior: 'instant'})",
    );
    let (x, y) = place(&browser, apple);
    browser.click(x, y);
    assert_ne!(browser.number("p8.selected()"), apple as f64);
    browser.click_on("#legend-none");
    assert_eq!(browser.text(shown), "0 of 13 images");
    browser.click_on("#legend-all");
    assert_eq!(browser.text(shown), "13 images");

    // A double click leaves one label.
    browser.run(
        "document.getElementById('legend').scrollIntoView({block: 'center', behavior: 'instant'})",
    );
    let button = "document.querySelector('#legend li:nth-child(3) button').getBoundingClientRect()";
    let x = browser.number(&format!("{button}.x + 40"));
    browser.double_click(x, browser.number(&format!("{button}.y + 8")));
    browser.until("document.getElementById('shown').textContent === '4 of 13 images'");
    let pressed = browser
        .run("return [...document.querySelectorAll('#legend button')].map((b) => b.ariaPressed)");
    assert_eq!(pressed, serde_json::json!(["false", "false", "true"]));
    browser.click_on("#legend-all");

    let before = browser.text("JSON.stringify(p8.view())");
    browser.click_on("#axis-x option:nth-child(3)");
    assert_eq!(browser.text("p8.axes()"), "PC3,PC2");
    assert_ne!(browser.text("JSON.stringify(p8.view())"), before);
    browser.click_on("#swap");
    assert_eq!(browser.text("p8.axes()"), "PC2,PC3");
    browser.click_on("#axis-y option:last-child");
    assert_eq!(browser.text("p8.axes()"), "PC2,reconstruction error");
    assert_silent(&browser);
}

#[test]
fn wheel_drag_buttons_and_keys_move_the_map() {
    let made = Made::new();
    let Some(browser) = Browser::open(&made.page(), Window::LIGHT) else {
        return;
    };
    browser.run(
        "document.getElementById('plot').scrollIntoView({block: 'center', behavior: 'instant'})",
    );
    let width = || browser.number("p8.view().x1 - p8.view().x0");
    let left = || browser.number("p8.view().x0");
    let home = browser.text("JSON.stringify(p8.view())");
    let whole = width();
    let middle: Vec<f64> = serde_json::from_value(browser.run(
        "const b = document.getElementById('points').getBoundingClientRect();
         return [b.left + b.width / 2, b.top + b.height / 2];",
    ))
    .unwrap();
    let (x, y) = (middle[0], middle[1]);
    // The wheel belongs to the page,
    let scrolled = browser.number("scrollY");
    browser.wheel(x, y, 120);
    browser.until(&format!("scrollY > {scrolled} + 50"));
    assert_eq!(browser.text("JSON.stringify(p8.view())"), home);
    browser.run(&format!(
        "scrollTo({{top: {scrolled}, behavior: 'instant'}})"
    ));
    // but for Ctrl,
    browser.hold("\u{e009}", true);
    browser.wheel(x, y, -300);
    browser.hold("\u{e009}", false);
    assert!(width() < 0.8 * whole);
    browser.click_on("#reset");
    // and until the map has the focus.
    browser.run("document.getElementById('points').focus()");
    browser.wheel(x, y, -300);
    assert!(width() < 0.8 * whole);
    assert_eq!(browser.number("scrollY"), scrolled);
    // Where it can be no smaller the page moves on.
    browser.run("for (let i = 0; i < 30; i++) document.getElementById('zoom-out').click()");
    browser.wheel(x, y, 300);
    browser.until(&format!("scrollY > {scrolled} + 50"));
    browser.run(&format!(
        "scrollTo({{top: {scrolled}, behavior: 'instant'}})"
    ));
    browser.click_on("#reset");
    assert_eq!(
        browser.text("getComputedStyle(document.getElementById('points')).touchAction"),
        "pan-y"
    );
    assert_eq!(browser.text("JSON.stringify(p8.view())"), home);
    let start = left();
    browser.drag((x, y), (x + 80.0, y));
    assert!(left() < start && (width() - whole).abs() < 1e-9 * whole);
    browser.click_on("#zoom-in");
    assert!(width() < whole);
    browser.click_on("#reset");

    // Two fingers, from 100 pixels to 200 and back.
    let near = |factor: f64| {
        let most = 1e-2 * whole;
        format!(
            "Math.abs(p8.view().x1 - p8.view().x0 - {}) < {most}",
            factor * whole
        )
    };
    browser.pinch(x, y, 100.0, 200.0);
    browser.until(&near(0.5));
    assert_eq!(browser.number("p8.selected()"), -1.0);
    browser.pinch(x, y, 200.0, 100.0);
    browser.until(&near(1.0));
    browser.click_on("#reset");

    browser.run("document.getElementById('points').focus()");
    browser.keys(&["+"]);
    assert!(width() < whole);
    browser.keys(&["-"]);
    assert!((width() - whole).abs() < 1e-6 * whole);
    // The arrow to the right.
    browser.keys(&["\u{e014}"]);
    assert!(left() > start);
    browser.keys(&["0"]);
    assert_eq!(browser.text("JSON.stringify(p8.view())"), home);
    browser.keys(&["n"]);
    assert_eq!(browser.number("p8.selected()"), 0.0);
    browser.keys(&["n", "n", "p"]);
    assert_eq!(browser.number("p8.selected()"), 1.0);
    let (_, rows) = scores(&made.output());
    assert_eq!(
        browser.text("document.querySelector('#selected .path').textContent"),
        rows[1][0]
    );
    browser.keys(&["\u{e00c}"]);
    assert_eq!(browser.number("p8.selected()"), -1.0);
    // Enter takes what is nearest to the middle of the map.
    browser.keys(&["\u{e007}"]);
    let nearest = browser.number(
        "p8.paths.map((_, i) => p8.place(i)).map(({x, y}) => {
           const b = document.getElementById('points').getBoundingClientRect();
           // The axes take 66 and 14 pixels beside, 12 and 46 above and below.
           return Math.hypot(x - (b.left + (66 + b.width - 14) / 2), y - (b.top + (12 + b.height - 46) / 2));
         }).reduce((best, d, i, all) => (d < all[best] ? i : best), 0)",
    );
    assert_eq!(browser.number("p8.selected()"), nearest);
    // A picture further down leads to its point.
    browser.click_on("#components .shot");
    assert!(browser.number("p8.selected()") >= 0.0);
    for (number, key) in [(1, "\u{e007}"), (2, " ")] {
        let shot = format!("document.querySelectorAll('#components .shot')[{number}]");
        browser.run(&format!("{shot}.focus()"));
        browser.keys(&[key]);
        let point = browser.number(&format!("{shot}.dataset.point"));
        assert_eq!(browser.number("p8.selected()"), point, "{key:?}");
    }
    assert_silent(&browser);
}

#[test]
fn the_page_is_dark_and_narrow_where_that_is_wanted_and_says_so_without_script() {
    let made = Made::new();
    let narrow = Window {
        width: 400,
        height: 800,
        dark: true,
    };
    let Some(browser) = Browser::open(&made.page(), narrow) else {
        return;
    };
    let background = || browser.text("getComputedStyle(document.body).backgroundColor");
    let ink = || browser.text("document.getElementById('points').toDataURL()");
    let (dark, dark_points) = (background(), ink());
    browser.screenshot_of_page(&screenshot("narrow-dark.png"));
    assert!(browser.number("document.documentElement.scrollWidth") <= 400.0);
    // The table of labels is not cut off, and the text of the drawing can be read.
    browser.until(
        "[...document.querySelectorAll('.scroll')].filter((e) => e.querySelector('.labels'))
          .every((e) => e.scrollWidth <= e.clientWidth)",
    );
    let tick = "document.querySelector('.chart .tick').getBoundingClientRect().height";
    assert!(browser.number(tick) >= 12.0);
    browser.set_dark(false);
    browser.until(&format!(
        "getComputedStyle(document.body).backgroundColor !== '{dark}'"
    ));
    browser.until(&format!(
        "document.getElementById('points').toDataURL() !== '{dark_points}'"
    ));
    assert_silent(&browser);

    // The same page without its script: tables and pictures stay, and a sentence says what is missing.
    let html = std::fs::read_to_string(made.page()).unwrap();
    let (body, _) = html.rsplit_once("<script>").unwrap();
    let bare = made.folder.path().join("bare.html");
    std::fs::write(&bare, body).unwrap();
    browser.go(&bare);
    assert!(browser.number("document.querySelectorAll('#components img').length") > 10.0);
    assert_eq!(
        browser.text("getComputedStyle(document.querySelector('.needs-script')).display"),
        "none"
    );
    assert!(html.contains("<noscript>"));

    let wide = Window {
        dark: true,
        ..Window::LIGHT
    };
    if let Some(browser) = Browser::open(&made.page(), wide) {
        let background = browser.text("getComputedStyle(document.body).backgroundColor");
        assert_eq!(background, dark);
        browser.screenshot_of_page(&screenshot("dark.png"));
        assert!(browser.number("document.documentElement.scrollWidth") <= 1280.0);
        assert_silent(&browser);
    }
}

#[test]
fn a_hostile_folder_is_text_everywhere() {
    let made = Made::new();
    let html = std::fs::read_to_string(made.page()).unwrap();
    assert!(!html.contains("<script>alert"));
    assert!(html.contains("&lt;script&gt;alert(1)&lt;"));
    let svg = std::fs::read_to_string(made.output().join("scatter.svg")).unwrap();
    assert!(svg.contains("&lt;script&gt;") && !svg.contains("<script"));
    let Some(browser) = Browser::open(&made.page(), Window::LIGHT) else {
        return;
    };
    // The data and the script of the page, and no third one.
    assert_eq!(browser.number("document.scripts.length"), 2.0);
    // Even where somebody gets a script into the page it does not run.
    browser.run(
        "const s = document.createElement('script'); s.textContent = 'window.broken = 1'; document.body.append(s);",
    );
    assert_eq!(browser.text("window.broken"), "undefined");
}

#[test]
fn the_page_names_copies_outliers_settings_and_the_command() {
    let made = Made::new();
    let html = std::fs::read_to_string(made.page()).unwrap();
    let images = made.images.path().display().to_string();
    for part in [
        "2 of 13 images have the same SHA-256 as another one, in 1 group.",
        "copy.png",
        "1 image failed",
        "1 of 14 images failed: ",
        "broken.jpg</li>",
        "all 13 images were compared",
        "of 13 labelled images have a nearest neighbour",
        "mean silhouette",
        "<title>rank 1: ",
        &format!("--input {images}"),
        " &amp;&amp; mpirun -np 2 p8 --input",
        "--components 5",
    ] {
        assert!(html.contains(part), "{part}");
    }
    assert!(!html.contains("no thumbnail<"), "every image has one");
    assert!(!html.contains("without a thumbnail"));
    let metrics = metrics(&made.output());
    assert_eq!(
        metrics["seconds_by_rank"]["network"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    // The command works as it is printed, wherever the reader is, and gives the same scores.
    run_in_shell(&printed_command(&made.page()), Path::new("/"));
    let again = made.folder.path().join("out-again");
    assert_eq!(scores(&again), scores(&made.output()));
}

#[test]
fn the_page_of_the_sample_prints_a_command_that_works() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path().join("it's here");
    std::fs::create_dir(&here).unwrap();
    let sample = repository().join("training_data");
    std::os::unix::fs::symlink(sample, here.join("training_data")).unwrap();
    P8::on(1).in_folder(&here).succeed();
    let command = printed_command(&here.join("p8-out/report.html"));
    assert!(
        command.contains(" p8 --weights seeded:50 --output p8-out-again"),
        "{command}"
    );
    run_in_shell(&command, Path::new("/"));
    assert_eq!(
        scores(&here.join("p8-out-again")),
        scores(&here.join("p8-out"))
    );
}

/// The command under "The same run again".
fn printed_command(page: &Path) -> String {
    let html = std::fs::read_to_string(page).unwrap();
    let (_, behind) = html.split_once("<pre class=\"command\">").unwrap();
    let (command, _) = behind.split_once("</pre>").unwrap();
    [
        ("&#39;", "'"),
        ("&quot;", "\""),
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&amp;", "&"),
    ]
    .iter()
    .fold(command.to_owned(), |text, (escaped, plain)| {
        text.replace(escaped, plain)
    })
}

/// Runs a command as somebody does who pastes it.
fn run_in_shell(command: &str, folder: &Path) {
    let programs = Path::new(env!("CARGO_BIN_EXE_p8")).parent().unwrap();
    let path = std::env::var("PATH").unwrap();
    let output = std::process::Command::new("sh")
        .args(["-c", command])
        .current_dir(folder)
        .env("PATH", format!("{}:{path}", programs.display()))
        .envs([
            ("OMPI_ALLOW_RUN_AS_ROOT", "1"),
            ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1"),
            ("OMPI_MCA_rmaps_base_oversubscribe", "1"),
            ("PRTE_MCA_rmaps_default_mapping_policy", ":oversubscribe"),
        ])
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command}: {error}");
}

#[test]
fn a_report_is_made_again_from_the_files_of_the_run_at_any_rank_count() {
    let made = Made::new();
    let output = made.output();
    let files = ["report.html", "scatter.svg", "scree.svg"];
    let read = || files.map(|name| std::fs::read_to_string(output.join(name)).unwrap());
    let expected = read();
    let listing = names(&output);
    for ranks in [1, 3] {
        for name in files {
            std::fs::remove_file(output.join(name)).unwrap();
        }
        P8::on(ranks)
            .args(["report".as_ref(), "--output".as_ref(), output.as_os_str()])
            .succeed();
        assert!(read() == expected, "{ranks} ranks");
        assert_eq!(names(&output), listing);
    }
    P8::on(1)
        .args(["report", "--points", "4", "--output"])
        .args([&output])
        .succeed();
    let fewer = std::fs::read_to_string(output.join("report.html")).unwrap();
    assert!(fewer.contains("of 13 images are drawn: 4 evenly spaced"));

    let report = |folder: &Path| {
        P8::on(1).args(["report".as_ref(), "--output".as_ref(), folder.as_os_str()])
    };
    let shard = output.join("features/block-000004.parquet");
    let kept = std::fs::read(&shard).unwrap();
    std::fs::remove_file(&shard).unwrap();
    report(&output).fail(4, &["block-000004.parquet"]);
    std::fs::write(&shard, kept).unwrap();
    for name in [
        "outcomes.parquet",
        "scores.parquet",
        "model.safetensors",
        "metrics.json",
    ] {
        let aside = made.folder.path().join("aside");
        std::fs::rename(output.join(name), &aside).unwrap();
        report(&output).fail(3, &[name, "finished run"]);
        std::fs::write(output.join(name), "damaged").unwrap();
        report(&output).fail(4, &[name]);
        std::fs::rename(&aside, output.join(name)).unwrap();
    }
    report(&output).succeed();
    report(&made.folder.path().join("nothing")).fail(3, &["metrics.json"]);
    P8::on(1)
        .args(["report", "--points", "0"])
        .fail(2, &["--points"]);
}

#[test]
fn components_of_stored_features_have_a_report_with_the_pictures_that_are_stored() {
    let made = Made::new();
    let output = made.folder.path().join("pca");
    // Found again from another folder, and whatever their own is called.
    std::fs::rename(made.output(), made.folder.path().join("a, b")).unwrap();
    P8::on(2)
        .in_folder(made.folder.path())
        .args(["pca", "--features", "a, b", "--output", "pca", "-k", "2"])
        .succeed();
    let page = std::fs::read_to_string(output.join("report.html")).unwrap();
    assert!(!page.contains("thumbnail:") && page.matches("<img ").count() > 20);
    assert!(page.contains("Not known: no image files were read."));
    std::fs::remove_file(output.join("report.html")).unwrap();
    P8::on(1)
        .in_folder(&output)
        .args(["report", "--output", "."])
        .succeed();
    assert_eq!(
        std::fs::read_to_string(output.join("report.html")).unwrap(),
        page
    );
    std::os::unix::fs::symlink("a, b", made.folder.path().join("same")).unwrap();
    // Of a version that noted the files in the setting alone, as they were typed.
    let noted = output.join("metrics.json");
    let mut older: serde_json::Value = metrics(&output);
    older.as_object_mut().unwrap().remove("features");
    older["settings"]["features"]["value"] =
        made.folder.path().join("same").to_str().unwrap().into();
    let newer = std::fs::read(&noted).unwrap();
    std::fs::write(&noted, older.to_string()).unwrap();
    P8::on(1)
        .in_folder(&output)
        .args(["report", "--output", "."])
        .succeed();
    std::fs::write(&noted, newer).unwrap();
    run_in_shell(
        &printed_command(&output.join("report.html")),
        Path::new("/"),
    );
    assert_eq!(
        scores(&made.folder.path().join("pca-again")),
        scores(&output)
    );

    // Features that are not p8's have none.
    let npy = made.folder.path().join("plain.npy");
    let values = (0..18u16).map(|i| f32::from(i * i % 17));
    std::fs::write(&npy, npy_of((6, 3), values)).unwrap();
    let plain = made.folder.path().join("plain");
    P8::on(2)
        .args(["pca".as_ref(), "--features".as_ref(), npy.as_os_str()])
        .args(["--output".as_ref(), plain.as_os_str()])
        .args(["-k", "2"])
        .succeed();
    let page = std::fs::read_to_string(plain.join("report.html")).unwrap();
    assert!(page.contains("There are no thumbnails") && page.contains("row-0000003"));
    assert!(page.contains("Principal components of 6 feature vectors"));
    for part in ["listed", "an earlier run", "0 bytes", "images per second"] {
        assert!(!page.contains(part), "{part}");
    }
    let scored = made.folder.path().join("scored");
    P8::on(1)
        .args(["transform".as_ref(), "--features".as_ref(), npy.as_os_str()])
        .args([
            "--model".as_ref(),
            plain.join("model.safetensors").as_os_str(),
        ])
        .args(["--output".as_ref(), scored.as_os_str()])
        .succeed();
    P8::on(1)
        .args(["report".as_ref(), "--output".as_ref(), scored.as_os_str()])
        .fail(2, &["fitted elsewhere"]);
}

/// A shard as a version wrote it that knew no thumbnails: the footer lacks their entry.
fn without_thumbnails(shard: &Path) {
    let mut bytes = std::fs::read(shard).unwrap();
    let tail = bytes.len() - 8;
    let length = u32::from_le_bytes(bytes[tail..tail + 4].try_into().unwrap()) as usize;
    let start = tail - length;
    let name = b"p8.thumbnails";
    let at = bytes[start..tail]
        .windows(name.len())
        .position(|part| part == name);
    bytes[start + at.unwrap() + name.len() - 1] = b'z';
    let digest = Sha256::digest(&bytes[start..tail]);
    bytes[start - 32..start].copy_from_slice(&digest);
    std::fs::write(shard, bytes).unwrap();
}

#[test]
fn shards_without_thumbnails_leave_placeholders_and_near_duplicates_are_found_on_one_component() {
    let made = Made {
        images: coloured(),
        folder: tempfile::tempdir().unwrap(),
    };
    let original = image::open(made.images.path().join("apple/06.png")).unwrap();
    let mut near = original.to_rgb8();
    near.get_pixel_mut(5, 5).0[0] ^= 8;
    near.save(made.images.path().join("apple/06-near.png"))
        .unwrap();
    P8::small(2, made.images.path(), &made.output())
        .args(["-k", "1"])
        .succeed();
    let html = std::fs::read_to_string(made.page()).unwrap();
    let (_, pairs) = html.split_once("<h3>Nearest pairs</h3>").unwrap();
    let (first, _) = pairs.split_once("<p>distance").unwrap();
    for name in ["06.png", "06-near.png"] {
        assert!(
            first.contains(&format!("class=\"file\">{name}<")),
            "{name}: {first}"
        );
    }
    assert!(first.contains("all 14 images were compared") && !first.contains("likeliest"));

    without_thumbnails(&made.output().join("features/block-000000.parquet"));
    P8::on(2)
        .args([
            "report".as_ref(),
            "--output".as_ref(),
            made.output().as_os_str(),
        ])
        .succeed();
    let html = std::fs::read_to_string(made.page()).unwrap();
    assert!(html.contains("1 image is without a thumbnail: none is stored"));
    let Some(browser) = Browser::open(&made.page(), Window::LIGHT) else {
        return;
    };
    assert!(browser.number("document.querySelectorAll('.shot .no-picture').length") >= 1.0);
    browser.run("document.getElementById('points').focus()");
    browser.keys(&["n"]);
    assert_eq!(
        browser.text("document.querySelector('#selected .no-picture').textContent"),
        "no thumbnail"
    );
    browser.keys(&["n"]);
    browser.until("document.querySelector('#selected .picture[data-painted]')");
    assert_silent(&browser);
}

#[test]
fn pictures_stay_with_their_images_when_the_list_changes() {
    let made = Made::new();
    made.images.picture("apple/00-new.png", 5);
    P8::small(2, made.images.path(), &made.output())
        .args(["-k", "5", "--overwrite"])
        .succeed();
    assert_eq!(metrics(&made.output())["images"]["resumed"], 14);
    let Some(browser) = Browser::open(&made.page(), Window::LIGHT) else {
        return;
    };
    assert_eq!(browser.number("p8.points"), 14.0);
    assert!(
        !std::fs::read_to_string(made.page())
            .unwrap()
            .contains("thumbnail:")
    );
    browser.run(
        "document.getElementById('plot').scrollIntoView({block: 'center', behavior: 'instant'})",
    );
    let point = lone_points(&browser)[0];
    let (x, y) = place(&browser, point);
    browser.point_at(x, y);
    browser.until("document.querySelector('#tip .picture[data-painted]')");
    assert_silent(&browser);
}

#[test]
fn a_page_of_ten_thousand_images_is_small_and_shows_each_of_them() {
    const IMAGES: u64 = 12_000;
    let made = Made::new();
    let mut metrics: Metrics =
        serde_json::from_value(metrics(&made.output())).expect("the metrics of a run");
    metrics.model.k = 40;
    // Neighbours look different, and each of 512 pictures is known by its colour.
    let colour = |position: u64| -> [u8; 3] {
        let n = position * 211 % 512;
        [n % 8, n / 8 % 8, n / 64].map(|level| 20 + 30 * level as u8)
    };
    let pictures: Vec<Vec<u8>> = (0..512)
        .map(|position| {
            let pixels = (0..224 * 224)
                .flat_map(|pixel| colour(position).map(|level| level + (pixel * 7919 % 13) as u8))
                .collect();
            let prepared = Rgb8 {
                width: 224,
                height: 224,
                pixels,
            };
            thumbnail(&prepared, Preprocess::Caffe, 300, 300).unwrap()
        })
        .collect();
    let mut collector = Collector::new(IMAGES, 40, MAX_POINTS);
    for position in 0..IMAGES {
        let row = ShardRow {
            index: position,
            path: format!(
                "/data/some folder/class-{:03}/{position:08}.jpg",
                position / 100
            ),
            label: Some(format!("class-{:03}", position / 100)),
        };
        // A square of points with room between them, and noise.
        let scores: Vec<f32> = (0..40)
            .map(|component| match component {
                0 => (position % 110) as f32,
                1 => (position / 110) as f32,
                other => ((position * 7919 + other * 104_729) % 1009) as f32,
            })
            .collect();
        collector.add(&row, &scores, (position % 997) as f32);
    }
    let scaling = Scaling {
        divisors: vec![1.0],
        standardized: true,
        deviations: None,
        total_variance: 1.0,
    };
    let collected = collector.compare(scaling).finish();
    let found = collected
        .wanted()
        .into_keys()
        .map(|position| {
            let found = Found {
                thumbnail: Some(pictures[position as usize % 512].clone()),
                ..Found::default()
            };
            (position, found)
        })
        .collect();
    let page = Report {
        metrics: &metrics,
        images: &Images { collected, found },
    }
    .page();
    assert!(page.len() < 5_000_000, "{} bytes", page.len());
    assert!(page.contains("10,000 evenly spaced in path order"));
    let path = made.folder.path().join("large.html");
    std::fs::write(&path, page).unwrap();
    let Some(browser) = Browser::open(&path, Window::LIGHT) else {
        return;
    };
    assert!(browser.number("p8.points") >= 10_000.0);
    assert!(
        browser.number("document.querySelectorAll('#legend li').length") == 57.0,
        "56 looks and the rest"
    );
    browser.run(
        "document.getElementById('plot').scrollIntoView({block: 'center', behavior: 'instant'})",
    );
    for name in ["00000000", "00006000", "00011999"] {
        let point = browser.number(&format!(
            "p8.paths.findIndex((path) => path.includes('{name}'))"
        ));
        let (x, y) = place(&browser, point as usize);
        browser.point_at(x, y);
        let shown = "document.querySelector('#tip .path')?.textContent.includes";
        browser.until(&format!("{shown}('{name}')"));
        browser.until("document.querySelector('#tip .picture[data-painted]')");
        let seen: Vec<f64> = serde_json::from_value(browser.run(
            "const c = document.querySelector('#tip .picture');
             return [...c.getContext('2d').getImageData(c.width / 2, c.height / 2, 1, 1).data.slice(0, 3)];",
        ))
        .unwrap();
        for (seen, expected) in seen.iter().zip(colour(name.parse::<u64>().unwrap() % 512)) {
            assert!(
                (seen - f64::from(expected) - 6.0).abs() < 14.0,
                "{name}: {seen}, {expected}"
            );
        }
    }
    assert_silent(&browser);
}

#[test]
fn a_hundred_thousand_points_are_drawn_where_that_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let npy = folder.path().join("many.npy");
    let values = (0..100_000 * 3u32).map(|i| {
        let mixed = (i ^ i >> 7).wrapping_mul(2_654_435_761);
        ((mixed ^ mixed >> 15).wrapping_mul(2_246_822_519) >> 8) as f32
    });
    std::fs::write(&npy, npy_of((100_000, 3), values)).unwrap();
    let output = folder.path().join("out");
    P8::on(2)
        .args(["pca".as_ref(), "--features".as_ref(), npy.as_os_str()])
        .args(["--output".as_ref(), output.as_os_str()])
        .args(["-k", "3"])
        .succeed();
    let page = output.join("report.html");
    let sampled = std::fs::read_to_string(&page).unwrap();
    assert!(sampled.contains("of 100,000 images are drawn: 10,000 evenly spaced"));
    P8::on(1)
        .args(["report".as_ref(), "--output".as_ref(), output.as_os_str()])
        .args(["--points", "100000"])
        .succeed();
    let Some(browser) = Browser::open(&page, Window::LIGHT) else {
        return;
    };
    assert_eq!(browser.number("p8.points"), 100_000.0);
    browser.run("document.getElementById('points').focus()");
    let width = browser.number("p8.view().x1 - p8.view().x0");
    browser.keys(&["+", "+", "+"]);
    assert!(browser.number("p8.view().x1 - p8.view().x0") < width);
    browser.keys(&["n"]);
    browser.until("document.querySelector('#selected .path')?.textContent.startsWith('row-')");
    assert_silent(&browser);
}

/// A NumPy file of 32-bit floats.
fn npy_of(shape: (usize, usize), values: impl Iterator<Item = f32>) -> Vec<u8> {
    let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape:?}, }}");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend(118u16.to_le_bytes());
    bytes.extend(header.bytes());
    bytes.resize(127, b' ');
    bytes.push(b'\n');
    bytes.extend(values.flat_map(f32::to_le_bytes));
    bytes
}
