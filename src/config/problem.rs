//! What is wrong with a file, shown where it stands.

use super::Source;
use annotate_snippets::{AnnotationKind, Level, Renderer, Snippet};
use std::ops::Range;

/// One thing that is wrong.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    /// Where, in bytes; `None` for the file as a whole.
    pub(crate) span: Option<Range<usize>>,
    /// What.
    pub(crate) what: String,
    /// What to do about it, or what would be right.
    pub(crate) remedy: String,
}

impl Problem {
    pub(crate) fn at(span: Range<usize>, what: impl Into<String>, remedy: impl Into<String>) -> Problem {
        Problem { span: Some(span), what: what.into(), remedy: remedy.into() }
    }

    pub(crate) fn of_file(what: impl Into<String>, remedy: impl Into<String>) -> Problem {
        Problem { span: None, what: what.into(), remedy: remedy.into() }
    }
}

/// All of them, in the order of the file.
#[derive(Debug)]
pub(crate) struct Problems(pub(crate) Vec<Problem>);

impl Problems {
    /// In words, each with its line and a mark below it.
    pub(crate) fn render(&self, source: &Source) -> String {
        let path = source.path.display().to_string();
        let mut all: Vec<&Problem> = self.0.iter().collect();
        all.sort_by_key(|problem| problem.span.as_ref().map(|span| span.start));
        let render = |problem: &&Problem| {
            let title = Level::ERROR.primary_title(problem.what.as_str());
            let Some(span) = within(&problem.span, &source.text) else {
                let remedy =
                    if problem.remedy.is_empty() { String::new() } else { format!("; {}", problem.remedy) };
                return format!("error: {path}: {}{remedy}", problem.what);
            };
            let mark = AnnotationKind::Primary.span(span);
            let mark = if problem.remedy.is_empty() { mark } else { mark.label(problem.remedy.as_str()) };
            let snippet = Snippet::source(source.text.as_str()).path(path.as_str()).annotation(mark);
            Renderer::plain().render(&[title.element(snippet)])
        };
        all.iter().map(render).collect::<Vec<_>>().join("\n\n")
    }
}

/// A span that is in the text, on the borders of characters, and not longer than its first line: of a table that is its head.
fn within(span: &Option<Range<usize>>, text: &str) -> Option<Range<usize>> {
    let span = span.clone()?;
    let rest = text.get(span.start..)?;
    let line = rest.find('\n').unwrap_or(rest.len());
    let end = span.end.min(span.start + line).max(span.start);
    text.get(span.start..end).map(|_| span.start..end)
}
