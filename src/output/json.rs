//! The answer as JSON: one object, or one event a line. docs/json.md describes the fields.

use std::io::Write;

use models::generate::Event;
use serde::Serialize;

use super::{Output, Report};
use crate::cli::args::ThinkArg;
use crate::failure::Result;
use crate::streams::written;

/// An answer as one object.
#[derive(Serialize)]
struct Answer<'a> {
    content: &'a str,
    /// Absent where it was not asked for.
    reasoning: Option<&'a str>,
    #[serde(flatten)]
    report: &'a Report<'a>,
}

/// A line of the event stream.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "lowercase")]
enum Line<'a> {
    Prompt { done: usize, total: usize, cached: usize },
    Reasoning { text: &'a str },
    Content { text: &'a str },
    Done(&'a Report<'a>),
}

/// Writes one object when the answer has ended.
pub struct JsonOutput<W> {
    out: W,
    think: Option<ThinkArg>,
    content: String,
    reasoning: String,
}

impl<W: Write> JsonOutput<W> {
    /// Output to the given stream.
    pub fn new(out: W, think: Option<ThinkArg>) -> Self {
        JsonOutput { out, think, content: String::new(), reasoning: String::new() }
    }
}

impl<W: Write> Output for JsonOutput<W> {
    fn event(&mut self, event: Event<'_>) -> Result<()> {
        match event {
            Event::Think(text) => self.reasoning.push_str(text),
            Event::Text(text) => self.content.push_str(text),
            Event::Prompt { .. } | Event::Token(_) => {}
        }
        Ok(())
    }

    fn done(&mut self, report: &Report<'_>) -> Result<()> {
        let shown = !matches!(self.think, Some(ThinkArg::Hide | ThinkArg::Raw));
        let answer = Answer { content: &self.content, reasoning: shown.then_some(&self.reasoning), report };
        write_line(&mut self.out, &answer)?;
        self.content.clear();
        self.reasoning.clear();
        Ok(())
    }
}

/// Writes each event as a line when it happens.
pub struct LinesOutput<W> {
    out: W,
    think: Option<ThinkArg>,
}

impl<W: Write> LinesOutput<W> {
    /// Output to the given stream.
    pub fn new(out: W, think: Option<ThinkArg>) -> Self {
        LinesOutput { out, think }
    }
}

impl<W: Write> Output for LinesOutput<W> {
    fn event(&mut self, event: Event<'_>) -> Result<()> {
        let line = match event {
            Event::Prompt { done, total, reused } => Line::Prompt { done, total, cached: reused },
            Event::Think(_) if self.think == Some(ThinkArg::Hide) => return Ok(()),
            Event::Think(text) => Line::Reasoning { text },
            Event::Text(text) => Line::Content { text },
            Event::Token(_) => return Ok(()),
        };
        write_line(&mut self.out, &line)
    }

    fn done(&mut self, report: &Report<'_>) -> Result<()> {
        write_line(&mut self.out, &Line::Done(report))
    }
}

fn write_line(out: &mut impl Write, value: &impl Serialize) -> Result<()> {
    // Nothing in these types can fail to become JSON, so what fails is the stream.
    let line = serde_json::to_string(value)? + "\n";
    written(out.write_all(line.as_bytes()).and_then(|()| out.flush()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use models::generate::{Finish, Summary};
    use serde_json::{Value, json};

    use super::*;

    fn summary() -> Summary {
        Summary {
            finish: Finish::Length,
            prompt_tokens: 7,
            reused_tokens: 3,
            tokens: vec![5, 6, 1],
            think_tokens: 2,
            thinking: false,
            stopped_by: None,
            unfinished: false,
            prompt_time: Duration::from_millis(500),
            generate_time: Duration::from_secs(2),
        }
    }

    const EVENTS: [Event<'static>; 6] = [
        Event::Prompt { done: 7, total: 7, reused: 3 },
        Event::Token(5),
        Event::Think("We \"add\".\n"),
        Event::Token(6),
        Event::Text("13"),
        Event::Text("2 模"),
    ];

    fn told(output: &mut dyn Output) {
        EVENTS.into_iter().for_each(|e| output.event(e).unwrap());
        let summary = summary();
        output.done(&Report::new("tiny", Duration::from_millis(250), 9, &summary)).unwrap();
    }

    #[test]
    fn json_is_one_object_with_all_that_is_known() {
        let mut out = Vec::new();
        told(&mut JsonOutput::new(&mut out, None));
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.lines().count(), 1);
        let expected = json!({
            "content": "132 模",
            "reasoning": "We \"add\".\n",
            "model": "tiny",
            "finish_reason": "length",
            "stop_text": null,
            "usage": {"prompt_tokens": 7, "cached_tokens": 3, "completion_tokens": 3, "reasoning_tokens": 2, "total_tokens": 10},
            "timings": {"load_ms": 250.0, "prompt_ms": 500.0, "prompt_per_second": 8.0, "predicted_ms": 2000.0, "predicted_per_second": 1.5},
            "seed": 9,
            "token_ids": [5, 6, 1],
        });
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), expected);
    }

    #[test]
    fn jsonl_is_an_event_a_line() {
        let mut out = Vec::new();
        told(&mut LinesOutput::new(&mut out, None));
        let lines: Vec<Value> =
            String::from_utf8(out).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        let names: Vec<&str> = lines.iter().map(|l| l["event"].as_str().unwrap()).collect();
        assert_eq!(names, ["prompt", "reasoning", "content", "content", "done"]);
        assert_eq!(lines[0], json!({"event": "prompt", "done": 7, "total": 7, "cached": 3}));
        assert_eq!(lines[4]["finish_reason"], "length");
    }

    #[test]
    fn hidden_reasoning_is_nowhere() {
        let mut out = Vec::new();
        told(&mut JsonOutput::new(&mut out, Some(ThinkArg::Hide)));
        told(&mut LinesOutput::new(&mut out, Some(ThinkArg::Hide)));
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("\"reasoning\":null") && !text.contains("add"), "{text}");
    }
}
