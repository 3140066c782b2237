use super::*;

fn row(position: u64, label: Option<&str>) -> ShardRow {
    ShardRow {
        index: position,
        path: format!("{position:07}.jpg"),
        label: label.map(str::to_owned),
    }
}

fn outcome(position: u64, status: Status, sha256: &str) -> Outcome {
    Outcome {
        path: format!("{position:07}.jpg"),
        status,
        reason: None,
        bytes: 1,
        width: 1,
        height: 1,
        sha256: sha256.repeat(32),
    }
}

/// Images whose scores and errors a function gives by position.
fn collected(total: u64, most: usize, of: impl Fn(u64) -> (Vec<f32>, f32)) -> Collected {
    let mut collector = Collector::new(total, of(0).0.len(), most);
    for position in 0..total {
        let (scores, error) = of(position);
        collector.add(&row(position, None), &scores, error);
    }
    collector.compare(scaling(None)).finish()
}

fn scaling(deviations: Option<&[f64]>) -> Scaling {
    Scaling {
        divisors: vec![1.0],
        standardized: false,
        deviations: deviations.map(<[f64]>::to_vec),
        total_variance: 1.0,
    }
}

#[test]
fn exactly_so_many_points_are_taken_and_they_are_spread_evenly() {
    for total in [0, 1, 4999, 5000, 5001, 9999, 123_456] {
        let taken: Vec<u64> = (0..total).filter(|&p| is_taken(p, total, 5000)).collect();
        assert_eq!(taken.len() as u64, total.min(5000), "{total}");
        let gaps = taken.windows(2).map(|pair| pair[1] - pair[0]);
        let (min, max) = gaps.fold((u64::MAX, 0), |(min, max), gap| {
            (min.min(gap), max.max(gap))
        });
        if total > 1 {
            assert!(max - min <= 1, "{total}: gaps from {min} to {max}");
        }
    }
}

#[test]
fn the_ends_of_a_component_and_the_outliers_are_found_and_drawn() {
    // 1000 images of which 10 are drawn evenly; scores fall, errors have their peak in the middle.
    let found = collected(1000, 10, |p| {
        (
            vec![-(p as f32), (p % 7) as f32],
            500.0 - (p as f32 - 500.0).abs(),
        )
    });
    assert_eq!(found.sampled, 10);
    let positions = |places: &[usize]| -> Vec<u64> {
        places
            .iter()
            .map(|&place| found.points[place].position)
            .collect()
    };
    let [low, high] = &found.extremes[0];
    assert_eq!(positions(low), [999, 998, 997, 996, 995, 994]);
    assert_eq!(positions(high), [0, 1, 2, 3, 4, 5]);
    // Of equal scores the first images.
    assert_eq!(positions(&found.extremes[1][1]), [6, 13, 20, 27, 34, 41]);
    assert_eq!(positions(&found.outliers)[..3], [500, 499, 501]);
    assert_eq!(found.outliers.len(), OUTLIERS);
    assert!(found.points.is_sorted_by_key(|point| point.position));
    assert_eq!(found.total, 1000);
    assert_eq!(found.nearest.compared, 1000);
    // Of few images the middle third is at neither end.
    for (total, ends) in [(9, [vec![0, 1, 2], vec![8, 7, 6]]), (5, [vec![0], vec![4]])] {
        let few = collected(total, 10, |p| (vec![p as f32], p as f32));
        assert_eq!(few.extremes[0], ends);
        assert_eq!(few.typical_error, (total / 2) as f32);
    }
}

#[test]
fn images_without_finite_scores_are_counted_and_left_out() {
    let found = collected(5, 10, |p| match p {
        1 => (vec![f32::NAN, 0.0], 0.0),
        3 => (vec![0.0, 0.0], f32::INFINITY),
        p => (vec![p as f32, 0.0], 1.0),
    });
    assert_eq!((found.not_finite, found.points.len()), (2, 3));
    assert_eq!(found.extremes[0][0].len(), 1);
}

#[test]
fn equal_files_are_found_by_their_checksums() {
    let mut collector = Collector::new(5, 1, 10);
    // The second listed image has failed, so positions of scored images move up.
    for (listed, (status, sha256)) in [
        (Status::Ok, "aa"),
        (Status::Failed, ""),
        (Status::Ok, "bb"),
        (Status::Ok, "cc"),
        (Status::Ok, "aa"),
        (Status::Ok, "bb"),
    ]
    .into_iter()
    .enumerate()
    {
        collector.add_outcome(&outcome(listed as u64, status, sha256));
    }
    for position in 0..5 {
        collector.add(&row(position, None), &[(position / 3) as f32], 0.0);
    }
    let found = collector.compare(scaling(None)).finish();
    let copies = found.copies.as_ref().unwrap();
    assert_eq!((copies.count, copies.images, copies.compared), (2, 4, 5));
    let shown: Vec<_> = copies
        .groups
        .iter()
        .map(|group| group.shown.clone())
        .collect();
    assert_eq!(shown, [vec![0, 3], vec![1, 4]]);
    assert_eq!(found.failures.len(), 1);
    let wanted = found.wanted();
    assert!(wanted.len() == 5 && wanted[&0] == Need::Named);
}

/// What the search finds among images with one feature, which is their score.
fn nearest(scores: &[f32], sha256: &[&str]) -> NearestPairs {
    let mut collector = Collector::new(scores.len() as u64, 1, 10);
    for (position, &score) in (0..).zip(scores) {
        if let Some(sha256) = sha256.get(position as usize) {
            collector.add_outcome(&outcome(position, Status::Ok, sha256));
        }
        collector.add(&row(position, None), &[score], 0.0);
    }
    let mut compared = collector.compare(scaling(None));
    let wanted = compared.wanted().into_iter();
    let found = wanted.map(|(position, need)| {
        assert_eq!(need, Need::Features);
        let found = Found {
            name: Some((format!("{position:07}.jpg"), None)),
            features: vec![f64::from(scores[position as usize])],
            ..Found::default()
        };
        (position, found)
    });
    compared.add(&found.collect()).unwrap();
    assert!(compared.wanted().is_empty());
    compared.finish().nearest
}

#[test]
fn equal_files_do_not_hide_the_nearest_pairs() {
    let positions = |found: &NearestPairs| -> Vec<(u64, u64)> {
        found.pairs.iter().map(|pair| pair.positions).collect()
    };
    let scores = [0.0, 10.0, 10.1, 50.0, 50.0, 90.0];
    let found = nearest(&scores, &["01", "02", "03", "04", "05", "06"]);
    assert_eq!(positions(&found)[..2], [(3, 4), (1, 2)]);
    assert_eq!(positions(&nearest(&scores, &[]))[..2], [(3, 4), (1, 2)]);
    let found = nearest(&scores, &["01", "02", "03", "04", "04", "06"]);
    assert_eq!(positions(&found)[0], (1, 2));
    assert_eq!((found.compared, found.distinct), (6, 5));
    // Three images, each in two folders.
    let scores = [0.0, 10.0, 11.0, 0.0, 10.0, 11.0];
    let found = nearest(&scores, &["01", "02", "03", "01", "02", "03"]);
    assert_eq!(positions(&found), [(1, 2), (0, 1), (0, 2)]);
    // Nothing but one file.
    let mut collector = Collector::new(3, 1, 10);
    for position in 0..3 {
        collector.add_outcome(&outcome(position, Status::Ok, "01"));
        collector.add(&row(position, None), &[1.0], 0.0);
    }
    let mut compared = collector.compare(scaling(None));
    assert!(compared.wanted().is_empty());
    let found = compared.finish().nearest;
    assert_eq!(
        (found.compared, found.distinct, found.pairs.len()),
        (3, 1, 0)
    );
}

#[test]
fn what_is_compared_does_not_depend_on_how_many_points_are_drawn() {
    let of = |max_points: usize| {
        let mut collector = Collector::new(30_000, 1, max_points);
        for position in 0..30_000u64 {
            // Two of those that are compared are near each other; extremes and outliers are not.
            let score = match position {
                15_000 => 3.0001,
                p if p % 1000 == 7 => 1e9 + p as f32 * 1e6,
                p => (p * 7919 % 30_011) as f32,
            };
            let label = ["a", "b"][(position * 2 / 30_000) as usize];
            collector.add(
                &row(position, Some(label)),
                &[score],
                (position % 97) as f32,
            );
        }
        let mut compared = collector.compare(scaling(None));
        let wanted = compared.wanted();
        let found = wanted.keys().map(|&position| {
            let features = vec![position as f64];
            (
                position,
                Found {
                    features,
                    ..Found::default()
                },
            )
        });
        compared.add(&found.collect()).unwrap();
        let found = compared.finish();
        assert!(found.points.len() >= max_points);
        for pair in &found.nearest.pairs {
            assert!(
                found.place(pair.positions.0).is_some() && found.place(pair.positions.1).is_some()
            );
        }
        (found.separation, found.nearest)
    };
    let expected = of(MAX_POINTS);
    assert_eq!(expected.1.compared, MAX_COMPARED);
    assert!(!expected.1.pairs.is_empty() && expected.0.is_some());
    for max_points in [4, 10_001, 15_000] {
        assert_eq!(of(max_points), expected, "{max_points}");
    }
}

#[test]
fn features_under_another_name_are_refused() {
    let mut collector = Collector::new(2, 1, 10);
    for position in 0..2 {
        collector.add(&row(position, None), &[position as f32], 0.0);
    }
    let mut compared = collector.compare(scaling(None));
    let found = Found {
        name: Some(("other.jpg".into(), None)),
        ..Found::default()
    };
    assert_eq!(
        compared.add(&BTreeMap::from([(1, found)])),
        Err(["other.jpg".to_owned(), "0000001.jpg".to_owned()])
    );
}

#[test]
fn distances_are_those_before_whitening() {
    // Whitened, the first and second are nearest; with the deviations the first and third are.
    let add = |deviations: Option<&[f64]>| {
        let mut collector = Collector::new(3, 2, 10);
        for (position, scores) in (0..).zip([[0.0, 0.0], [0.5, 0.0], [0.0, 0.9]]) {
            collector.add(&row(position, Some("a")), &scores, 0.0);
        }
        let compared = collector.compare(scaling(deviations));
        compared.search.bounds()
    };
    assert_eq!(add(None)[0].0, (0, 1));
    assert_eq!(add(Some(&[10.0, 1.0]))[0].0, (0, 2));
}

#[test]
fn only_the_first_failures_are_kept() {
    let mut collector = Collector::new(0, 1, 10);
    for number in 0..300 {
        collector.add_outcome(&outcome(number, Status::Failed, ""));
    }
    let found = collector.compare(scaling(None)).finish();
    assert_eq!(found.failures.len(), MAX_FAILURES);
    assert!(found.points.is_empty() && found.nearest.pairs.is_empty());
    assert_eq!(found.separation, None);
}
