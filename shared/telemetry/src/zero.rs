//! Counters that are there from the start.
//!
//! `rate()` and `increase()` see a series from its first scrape on: an event that brought its own series into being is not in them. So whoever
//! counts shows every combination of labels that it knows of as 0 before it begins.

use metrics::Label;

/// Shows a counter at 0 under every combination of these values of its labels; what is counted already stays.
pub fn at_zero(counter: &'static str, labels: &[(&'static str, &[&str])]) {
    let mut combinations: Vec<Vec<Label>> = vec![Vec::new()];
    for (name, values) in labels {
        let with = |before: &Vec<Label>| {
            let with = |value: &&str| before.iter().cloned().chain([Label::new(*name, (*value).to_owned())]).collect();
            values.iter().map(with).collect::<Vec<Vec<Label>>>()
        };
        combinations = combinations.iter().flat_map(with).collect();
    }
    for labels in combinations {
        metrics::counter!(counter, labels).increment(0);
    }
}

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;
    use crate::names;

    #[test]
    fn every_combination_is_shown_and_what_is_counted_stays() {
        let recorder = PrometheusBuilder::new().build_recorder();
        metrics::with_local_recorder(&recorder, || {
            metrics::counter!(names::PUBLISH_TOTAL, "kind" => "check", "outcome" => "nacked").increment(2);
            at_zero(names::PUBLISH_TOTAL, &[("kind", &["message", "check"]), ("outcome", &["confirmed", "nacked"])]);
            at_zero(names::SWEPT_TOTAL, &[]);
        });
        let text = recorder.handle().render();
        let mut series: Vec<&str> = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
        series.sort_unstable();
        let wanted = [
            "countersign_publish_total{kind=\"check\",outcome=\"confirmed\"} 0",
            "countersign_publish_total{kind=\"check\",outcome=\"nacked\"} 2",
            "countersign_publish_total{kind=\"message\",outcome=\"confirmed\"} 0",
            "countersign_publish_total{kind=\"message\",outcome=\"nacked\"} 0",
            "countersign_swept_total 0",
        ];
        assert_eq!(series, wanted);
    }
}
