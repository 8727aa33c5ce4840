//! One thing that was looked at, what was found, and what to do about it.

use std::fmt::Write as _;

use serde_json::{Value, json};

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// As it should be.
    Ok,
    /// Could not be looked at; the remedy says how it can.
    Skipped,
    /// Works, but costs something or will.
    Warning,
    /// Does not work, or loses or doubles messages.
    Error,
}

impl Severity {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Skipped => "skipped",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// `subject.check`: what stands before the dot is the heading it is shown under.
    pub check: &'static str,
    /// A service, a queue, a server.
    pub subject: String,
    pub severity: Severity,
    pub found: String,
    /// What to do; empty only when nothing needs to be done.
    pub remedy: String,
}

impl Finding {
    pub fn ok(check: &'static str, subject: impl Into<String>, found: impl Into<String>) -> Self {
        Self::new(check, subject, Severity::Ok, found, "")
    }

    pub fn skipped(check: &'static str, subject: impl Into<String>, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(check, subject, Severity::Skipped, found, remedy)
    }

    pub fn warning(check: &'static str, subject: impl Into<String>, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(check, subject, Severity::Warning, found, remedy)
    }

    pub fn error(check: &'static str, subject: impl Into<String>, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(check, subject, Severity::Error, found, remedy)
    }

    fn new(
        check: &'static str,
        subject: impl Into<String>,
        severity: Severity,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self { check, subject: subject.into(), severity, found: found.into(), remedy: remedy.into() }
    }

    fn heading(&self) -> &'static str {
        self.check.split('.').next().unwrap_or(self.check)
    }
}

/// How many there are of one severity.
pub fn count(findings: &[Finding], severity: Severity) -> usize {
    findings.iter().filter(|finding| finding.severity == severity).count()
}

/// `{"findings": […], "errors": n, "warnings": n}`.
pub fn as_json(findings: &[Finding]) -> Value {
    let listed = findings.iter().map(|finding| {
        json!({
            "check": finding.check,
            "subject": finding.subject,
            "severity": finding.severity.as_str(),
            "found": finding.found,
            "remedy": finding.remedy,
        })
    });
    json!({
        "findings": listed.collect::<Vec<_>>(),
        "errors": count(findings, Severity::Error),
        "warnings": count(findings, Severity::Warning),
    })
}

/// Under one heading each, in the order in which headings first come; the last line counts.
pub fn as_text(findings: &[Finding]) -> String {
    let mut headings: Vec<&str> = Vec::new();
    for finding in findings {
        if !headings.contains(&finding.heading()) {
            headings.push(finding.heading());
        }
    }
    let mut text = String::new();
    for heading in headings {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{heading}");
        for finding in findings.iter().filter(|finding| finding.heading() == heading) {
            let _ = writeln!(text, "  {:<8} {}: {}", finding.severity.as_str(), finding.subject, finding.found);
            if !finding.remedy.is_empty() {
                let _ = writeln!(text, "           → {}", finding.remedy);
            }
        }
    }
    let (errors, warnings) = (count(findings, Severity::Error), count(findings, Severity::Warning));
    let _ = write!(text, "{errors} {}, {warnings} {}", plural(errors, "error"), plural(warnings, "warning"));
    text
}

fn plural(count: usize, word: &str) -> String {
    if count == 1 { word.to_owned() } else { format!("{word}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_grouped_counted_and_carry_their_remedy() {
        let findings = [
            Finding::ok("connections.broker", "upstream", "RabbitMQ 3.10.8"),
            Finding::error("topology.queue", "queue a", "is missing", "declare it"),
            Finding::warning("connections.redis", "redis", "slow", "look"),
        ];
        let text = as_text(&findings);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "connections");
        assert_eq!(lines[1], "  ok       upstream: RabbitMQ 3.10.8");
        assert_eq!(lines[3], "           → look");
        assert_eq!(lines.last(), Some(&"1 error, 1 warning"));
        let json = as_json(&findings);
        assert_eq!((json["errors"].as_u64(), json["warnings"].as_u64()), (Some(1), Some(1)));
        assert_eq!(json["findings"][1]["remedy"], "declare it");
    }
}
