//! Images on the page: the map of all points, the ends of the components, outliers and duplicates.

use super::collect::{MAX_DIGESTS, MAX_SCORES};
use super::images::Images;
use super::text::{count, escape, number, percent, plural};
use crate::output::metrics::Metrics;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Labels in the table of how labels separate; the others come below it.
const LABEL_ROWS: usize = 12;

/// The map and everything around it but the data, which the script brings.
pub fn map(images: &Images, metrics: &Metrics) -> String {
    let collected = &images.collected;
    let empty = |why: &str| format!("<p class=\"empty\">{why}</p>");
    if metrics.model.k == 0 {
        return empty("There is no component to draw the images on.");
    }
    if collected.points.is_empty() {
        return empty("There is no image to draw.");
    }
    let mut captions = Vec::new();
    if collected.sampled + collected.not_finite < collected.total {
        captions.push(format!(
            "{} of {} images are drawn: {} evenly spaced in path order, and those shown further down. \
             <code>p8 report --points N</code> draws more.",
            count(collected.points.len() as u64),
            count(collected.total),
            count(collected.sampled)
        ));
    }
    if collected.not_finite > 0 {
        captions.push(format!(
            "{} not drawn: the scores are not finite.",
            plural(collected.not_finite, "image is", "images are")
        ));
    }
    let choices = super::data::choices(&collected.points);
    if choices < metrics.model.k {
        captions.push(format!(
            "The first {choices} of {} components can be chosen.",
            count(metrics.model.k as u64)
        ));
    }
    captions.extend(missing(images));
    let captions: String = captions
        .iter()
        .map(|caption| format!("<p class=\"caption\">{caption}</p>"))
        .collect();
    format!("{}{captions}", include_str!("map.html"))
}

/// A sentence where thumbnails are missing.
fn missing(images: &Images) -> Option<String> {
    let (points, without) = (images.collected.points.len(), images.without_thumbnail());
    if without == 0 {
        return None;
    }
    Some(if without == points {
        "There are no thumbnails: none are stored with the features. A run that computes its features \
         anew keeps them."
            .to_owned()
    } else {
        format!(
            "{} without a thumbnail: none is stored with the features.",
            plural(without as u64, "image is", "images are")
        )
    })
}

/// One image: its picture, its name, its label, and a line about it where there is one, which is HTML.
fn shot(
    picture: Option<&[u8]>,
    path: &str,
    label: Option<&str>,
    line: &str,
    point: Option<usize>,
) -> String {
    let name = path.rsplit('/').next().unwrap_or(path);
    let (title, label) = match label {
        Some(label) => (
            format!("{path} ({label})"),
            format!("<span>{}</span>", escape(label)),
        ),
        None => (path.to_owned(), String::new()),
    };
    let line = match line {
        "" => String::new(),
        line => format!("<span>{line}</span>"),
    };
    let picture = match picture {
        Some(jpeg) => format!(
            "<img alt=\"\" src=\"data:image/jpeg;base64,{}\">",
            STANDARD.encode(jpeg)
        ),
        None => "<span class=\"no-picture\">no thumbnail</span>".to_owned(),
    };
    let point = point.map_or(String::new(), |point| format!(" data-point=\"{point}\""));
    format!(
        "<figure class=\"shot\" title=\"{}\"{point}>{picture}<figcaption><span class=\"file\">{}</span>\
         {label}{line}</figcaption></figure>",
        escape(&title),
        escape(name)
    )
}

/// The image of a point.
fn shot_of(images: &Images, place: usize, line: &str) -> String {
    let point = &images.collected.points[place];
    let picture = images.thumbnail(place);
    shot(
        picture,
        &point.path,
        point.label.as_deref(),
        line,
        Some(place),
    )
}

/// The images at both ends of the first components.
pub fn extremes(images: &Images, metrics: &Metrics) -> String {
    let collected = &images.collected;
    if collected.extremes.is_empty() || collected.points.is_empty() {
        return "<p class=\"caption\">There is no component to show.</p>".to_owned();
    }
    let mut html = format!(
        "<p class=\"caption\">The images with the lowest and the highest scores on {}: what they have in \
         common at one end and not at the other is what the component measures. The sign of a component \
         means nothing by itself.</p>",
        match collected.extremes.len() {
            1 => "the component".to_owned(),
            shown => format!("each of the first {shown} components"),
        }
    );
    for (component, [low, high]) in collected.extremes.iter().enumerate() {
        let shots = |places: &[usize]| -> String {
            places
                .iter()
                .map(|&place| {
                    let score = collected.points[place].scores[component];
                    shot_of(images, place, &signed(f64::from(score)))
                })
                .collect()
        };
        let share = metrics.model.explained_variance_ratio.get(component);
        let outermost_last: Vec<usize> = high.iter().rev().copied().collect();
        html.push_str(&format!(
            "<div class=\"component\"><h3>PC{} <span>{} of the variance</span></h3>\
             <div class=\"ends\" style=\"--n:{}\"><div class=\"end\"><p>lowest</p><div class=\"shots\">{}</div></div>\
             <div class=\"end high\"><p>highest</p><div class=\"shots\">{}</div></div></div></div>",
            component + 1,
            percent(share.copied().unwrap_or(f64::NAN)),
            low.len().max(high.len()),
            shots(low),
            shots(&outermost_last)
        ));
    }
    html
}

/// A score with its sign.
fn signed(value: f64) -> String {
    let text = number(value.abs());
    match value < 0.0 {
        true => format!("\u{2212}{text}"),
        false => text,
    }
}

/// Errors below this part of the norm of a typical image are rounding.
const ROUNDING: f64 = 1e-5;

/// The images with the largest reconstruction error.
pub fn outliers(images: &Images) -> String {
    let collected = &images.collected;
    if collected.outliers.is_empty() {
        return "<p class=\"caption\">There is no image.</p>".to_owned();
    }
    let largest = f64::from(collected.points[collected.outliers[0]].error);
    if largest <= ROUNDING * collected.scaling.total_variance.sqrt() {
        return format!(
            "<p class=\"caption\">None stands out: the components explain every image but for rounding (the \
             largest error is {}).</p>",
            number(largest)
        );
    }
    let typical = f64::from(collected.typical_error);
    let shots: String = collected
        .outliers
        .iter()
        .map(|&place| {
            let error = f64::from(collected.points[place].error);
            let line = match typical > 0.0 {
                true => format!("{:.1} \u{d7} median", error / typical),
                false => format!("error {}", number(error)),
            };
            shot_of(images, place, &line)
        })
        .collect();
    format!(
        "<p class=\"caption\">{}. The error is the norm of what the components leave of the \
         {} features of an image; {} is the median, and each is given as a multiple of it. An image far above \
         the median is unlike the others in a way that no component tells.</p>\
         <div class=\"shots wide\">{shots}</div>",
        match (collected.outliers.len(), collected.total) {
            (_, 1) => "The one image".to_owned(),
            (1, total) => format!("The one of {} images with the largest error", count(total)),
            (shown, total) => {
                format!(
                    "The {shown} of {} images with the largest errors",
                    count(total)
                )
            }
        },
        match collected.scaling.standardized {
            true => "centred and standardized",
            false => "centred",
        },
        number(typical)
    )
}

/// Equal files, and pairs with the nearest features.
pub fn duplicates(images: &Images) -> String {
    format!("{}{}", copies(images), near_duplicates(images))
}

fn copies(images: &Images) -> String {
    let Some(copies) = &images.collected.copies else {
        return "<h3>Equal files</h3><p class=\"caption\">Not known: no image files were read.</p>"
            .to_owned();
    };
    let among = if (copies.compared as u64) < images.collected.total {
        format!(" among the first {} images", count(MAX_DIGESTS as u64))
    } else {
        String::new()
    };
    if copies.count == 0 {
        return format!(
            "<h3>Equal files</h3><p class=\"caption\">None{among}: no two files have the same SHA-256.</p>"
        );
    }
    let mut html = format!(
        "<h3>Equal files</h3><p class=\"caption\">{} of {} have the same SHA-256 as another one{among}, in \
         {}.{}</p><div class=\"groups\">",
        count(copies.images as u64),
        plural(copies.compared as u64, "image", "images"),
        plural(copies.count as u64, "group", "groups"),
        if copies.groups.len() < copies.count {
            format!(" The {} largest follow.", copies.groups.len())
        } else {
            String::new()
        }
    );
    for group in &copies.groups {
        html.push_str("<div class=\"pair\"><div class=\"shots\">");
        for &position in &group.shown {
            let name = images
                .found
                .get(&position)
                .and_then(|found| found.name.as_ref());
            let (path, label) = match name {
                Some((path, label)) => (path.as_str(), label.as_deref()),
                None => ("", None),
            };
            html.push_str(&shot(
                images.thumbnail_at(position),
                path,
                label,
                "",
                images.collected.place(position),
            ));
        }
        let more = group.images - group.shown.len();
        let more = match more {
            0 => String::new(),
            more => format!(", {} more", count(more as u64)),
        };
        html.push_str(&format!(
            "</div><p>{} times the same{more}</p></div>",
            group.images
        ));
    }
    html.push_str("</div>");
    html
}

fn near_duplicates(images: &Images) -> String {
    let collected = &images.collected;
    let nearest = &collected.nearest;
    let head = "<h3>Nearest pairs</h3><p class=\"caption\">";
    let compared = count(nearest.compared as u64);
    if nearest.distinct < 2 {
        return match nearest.compared {
            0 | 1 => format!("{head}There are no two images to compare.</p>"),
            _ => format!("{head}All {compared} images that were compared are the same file.</p>"),
        };
    }
    let among = if (nearest.compared as u64) < collected.total {
        format!(
            "{compared} of {} images were compared",
            count(collected.total)
        )
    } else {
        format!("all {compared} images were compared")
    };
    let files = match collected.copies {
        Some(_) => "Images with other bytes and",
        None => "Images with",
    };
    let likeliest = nearest.likeliest.map_or(String::new(), |pairs| {
        format!(
            ", among the {} likeliest pairs: the components explain too little to rule out that another \
             one is nearer",
            count(pairs as u64)
        )
    });
    let typical = collected.scaling.typical_distance();
    let mut html = format!(
        "{head}{files} the most similar features{likeliest}; {among}. The distance is between {} features, \
         in per cent of the root mean square distance between two images.</p><div class=\"groups\">",
        match collected.scaling.standardized {
            true => "standardized",
            false => "unscaled",
        }
    );
    for pair in &nearest.pairs {
        let positions = [pair.positions.0, pair.positions.1];
        let shots: String = positions
            .iter()
            .filter_map(|&position| collected.place(position))
            .map(|place| shot_of(images, place, ""))
            .collect();
        let share = match typical > 0.0 {
            true => percent(pair.distance / typical),
            false => number(pair.distance),
        };
        html.push_str(&format!(
            "<div class=\"pair\"><div class=\"shots\">{shots}</div><p>distance {share}</p></div>"
        ));
    }
    html.push_str("</div>");
    html
}

/// Where labels come from, where that is the folders.
fn folders(metrics: &Metrics) -> &'static str {
    let rule = metrics.settings.get("label");
    match rule.and_then(|rule| rule.value.as_str()) {
        Some("parent") => {
            " The label of an image is the name of the folder that it lies in, be it the input folder itself."
        }
        Some(_) | None => "",
    }
}

/// How well labels separate.
pub fn separation(images: &Images, metrics: &Metrics) -> String {
    let collected = &images.collected;
    if metrics.model.k == 0 {
        return "<p class=\"caption\">There is no component to measure on.</p>".to_owned();
    }
    let Some(found) = &collected.separation else {
        return "<p class=\"caption\">Fewer than two images have a label. Labels come from the folders of \
                the images, or from an expression: see <code>--label</code>.</p>"
            .to_owned();
    };
    let silhouette = match found.silhouette {
        Some((mean, points)) => format!(
            "<div class=\"measure\"><p class=\"big\">{mean:.2}</p><p>mean silhouette, from \u{2212}1 (mixed) \
             to 1 (apart), on {}</p></div>",
            plural(points as u64, "image", "images")
        )
        .replace(">-", ">\u{2212}"),
        None => "<div class=\"measure\"><p class=\"big\">\u{2013}</p><p>the images that were compared have \
                 one label only, so there is no silhouette</p></div>"
            .to_owned(),
    };
    let rows = |labels: &[super::neighbours::LabelSeparation]| -> String {
        labels
            .iter()
            .map(|label| {
                format!(
                    "<tr><td>{}</td><td class=\"num\">{}</td><td class=\"num\">{}</td><td class=\"num\">{}</td></tr>",
                    escape(&label.label),
                    count(label.points as u64),
                    percent(label.agreement),
                    label
                        .silhouette
                        .map_or("\u{2013}".to_owned(), |value| format!("{value:.2}").replace('-', "\u{2212}"))
                )
            })
            .collect()
    };
    let head = "<thead><tr><th>label</th><th class=\"num\">images</th><th class=\"num\">neighbour agrees</th>\
                <th class=\"num\">silhouette</th></tr></thead>";
    let (first, rest) = found.labels.split_at(found.labels.len().min(LABEL_ROWS));
    let rest = match rest.is_empty() {
        true => String::new(),
        false => format!(
            "<details><summary>{} more</summary><div class=\"scroll\"><table>{head}<tbody>{}</tbody></table>\
             </div></details>",
            plural(rest.len() as u64, "label", "labels"),
            rows(rest)
        ),
    };
    let compared = collected.nearest.compared as u64;
    let among = match compared < collected.total {
        true => format!(
            ", among {} of {} images",
            count(compared),
            count(collected.total)
        ),
        false => String::new(),
    };
    let caveat = match &metrics.weights {
        Some(weights) if !weights.pretrained => {
            "<p class=\"caveat\">With random weights these are colours and textures, not objects.</p>"
        }
        Some(_) | None => "",
    };
    format!(
        "<div class=\"measures\"><div class=\"measure\"><p class=\"big\">{}</p><p>of {} have a nearest \
         neighbour of their own label; {} would by chance</p></div>{silhouette}</div>\
         {caveat}<p class=\"caption\">Distances are those on {}{among}.{}</p>\
         <div class=\"scroll\"><table class=\"labels\">{head}<tbody>{}</tbody></table></div>{rest}",
        percent(found.agreement),
        plural(found.points as u64, "labelled image", "labelled images"),
        percent(found.chance),
        match metrics.model.k {
            1 => "the one component".to_owned(),
            k if k <= MAX_SCORES => format!("all {k} components"),
            _ => format!("the first {MAX_SCORES} components"),
        },
        folders(metrics),
        rows(first)
    )
}
