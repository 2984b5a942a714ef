//! tiny-r1 ready to answer, for its tests and its exam.

use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use fathom_testing::exam::{MOST_TOKENS, Question, is_right};
use ggml_sys::GgmlType;
use ggml_sys::cpu::Cpu;
use ggml_sys::gguf::Gguf;
use models::template::{ChatTemplate, Message, prompt_opens_think};
use models::{
    Engine, EngineOptions, Event, Finish, GenerateOptions, MlaForm, Model, Sampler, SamplerOptions, Session,
    Tokenizer, generate,
};

/// The bundled file.
pub fn bundled() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tiny-r1/tiny-r1-q8_0.gguf")
}

/// The model of a file with a cache of `cache`; attention in the form `mla`, or whichever costs less.
pub fn engine(file: &Path, threads: usize, cache: GgmlType, mla: Option<MlaForm>) -> Engine {
    let backend = Arc::new(Cpu::new(NonZeroUsize::new(threads).unwrap()).unwrap());
    let options = EngineOptions { n_ctx: 1024, k_ty: Some(cache), v_ty: Some(cache), n_batch: 512, mla };
    Engine::new(Arc::new(Model::load(Gguf::open(file).unwrap()).unwrap()), backend, options).unwrap()
}

/// The model with a session.
pub struct Tiny {
    pub session: Session,
    pub tokenizer: Tokenizer,
    pub template: ChatTemplate,
}

/// What the model said to a conversation.
pub struct Answer {
    /// Tokens of the prompt.
    pub prompt: Vec<u32>,
    /// Tokens that followed, a final end token included.
    pub tokens: Vec<u32>,
    /// The text behind the reasoning.
    pub reply: String,
    pub finish: Finish,
}

impl Tiny {
    /// A session of the [`engine`] that these arguments make.
    pub fn open(file: &Path, threads: usize, cache: GgmlType, mla: Option<MlaForm>) -> Self {
        let engine = engine(file, threads, cache, mla);
        let metadata = engine.model().gguf().metadata();
        let tokenizer = Tokenizer::from_gguf(metadata).unwrap();
        let template = ChatTemplate::from_gguf(metadata, &tokenizer).unwrap();
        Tiny { session: Session::new(engine), tokenizer, template }
    }

    /// Answers a conversation with at most `limit` tokens, always the likeliest.
    pub fn answer(&mut self, messages: &serde_json::Value, limit: usize) -> Answer {
        let messages: Vec<Message> = serde_json::from_value(messages.clone()).unwrap();
        let text = self.template.render(&messages, &Default::default()).unwrap();
        let prompt = self.tokenizer.encode_prompt(&text);
        let options = GenerateOptions {
            n_predict: Some(limit),
            inside_think: prompt_opens_think(&text),
            split_reasoning: true,
            ..Default::default()
        };
        let mut sampler = Sampler::new(SamplerOptions { temperature: 0.0, ..Default::default() });
        let (mut reply, go_on) = (String::new(), AtomicBool::new(false));
        let mut hear = |event: Event<'_>| {
            if let Event::Text(text) = event {
                reply.push_str(text);
            }
            ControlFlow::Continue(())
        };
        // Nothing of an earlier question is to speed this one up.
        self.session.truncate(0);
        let s = &mut self.session;
        let summary =
            generate(s, &self.tokenizer, &prompt, &options, &mut sampler, &go_on, &mut hear).unwrap();
        Answer { prompt, tokens: summary.tokens, reply, finish: summary.finish }
    }

    /// Whether the model answers a question of the exam, and with what.
    pub fn examine(&mut self, question: &Question) -> (bool, Answer) {
        let answer = self.answer(&question.messages, MOST_TOKENS);
        let right = answer.finish == Finish::Stop && is_right(&answer.reply, &question.answer);
        (right, answer)
    }
}
