//! The arguments as they are typed, nothing decided yet. Help, completions and the manual are made
//! from these definitions.

use std::ffi::OsString;
use std::path::PathBuf;

use super::examples;
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};

/// Talks to a language model of the DeepSeek-R1 family on this machine
#[derive(Debug, Parser)]
#[command(name = "fathom", version, after_help = AFTER_HELP, after_long_help = examples::FATHOM)]
#[command(override_usage = "fathom [COMMAND] [OPTIONS] [MODEL] [PROMPT]...")]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    pub global: GlobalArgs,
}

const AFTER_HELP: &str = "\
Without a command, 'run' is meant: fathom -m model.gguf \"Why is the sky blue?\"
'fathom help COMMAND' lists its options. They can also be set in the environment
(FATHOM_THREADS=4 is --threads 4) and in a file: 'fathom config' lists them.";

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Answer a prompt, or chat if there is none
    #[command(override_usage = "fathom run [OPTIONS] [MODEL] [PROMPT]...", after_long_help = examples::RUN)]
    Run(Box<RunArgs>),
    /// Chat, also with a prompt or a script of lines on standard input
    #[command(override_usage = "fathom chat [OPTIONS] [MODEL] [PROMPT]...", after_long_help = examples::CHAT)]
    Chat(Box<RunArgs>),
    /// Write a model in another type of weights
    #[command(override_usage = "fathom quantize [OPTIONS] IN [OUT] TYPE", after_long_help = examples::QUANTIZE)]
    Quantize(QuantizeArgs),
    /// Say what a model file is and the memory it takes
    #[command(after_long_help = examples::SHOW)]
    Show(ShowArgs),
    /// List the models that are found, by name
    #[command(visible_alias = "ls", after_long_help = examples::LIST)]
    List(ListArgs),
    /// Print the tokens of a text
    #[command(override_usage = "fathom tokenize [OPTIONS] [MODEL] [TEXT]...", after_long_help = examples::TOKENIZE)]
    Tokenize(TokenizeArgs),
    /// Write the logits at every position of a text to a file
    #[command(override_usage = "fathom logits [OPTIONS] -o FILE [MODEL] [TEXT]...", after_long_help = examples::LOGITS)]
    Logits(LogitsArgs),
    /// Measure how well a model predicts a text, or how two models differ
    #[command(override_usage = "fathom perplexity [OPTIONS] [MODEL] [TEXT]...", after_long_help = examples::PERPLEXITY)]
    Perplexity(PerplexityArgs),
    /// Learn from a text how much each column of the weights matters, for quantize --imatrix
    #[command(override_usage = "fathom imatrix [OPTIONS] [MODEL] [TEXT]...", after_long_help = examples::IMATRIX)]
    Imatrix(Box<ImatrixArgs>),
    /// Measure how fast prompts are read and answers written
    #[command(after_long_help = examples::BENCH)]
    Bench(Box<BenchArgs>),
    /// Say what is set, and by whom; change the file with settings
    #[command(override_usage = "fathom config [OPTIONS]\n       fathom config path|edit|get|set|unset")]
    #[command(after_long_help = examples::CONFIG)]
    Config(Box<ConfigCommand>),
    /// Print completions for a shell: commands, options, names of models and profiles
    #[command(after_long_help = examples::COMPLETIONS)]
    Completions {
        /// Shell to complete for
        shell: clap_complete::Shell,
    },
    /// Print what can stand in place of the last word, for the scripts of 'completions'
    #[command(name = "__complete", hide = true)]
    Complete {
        /// The words up to the cursor
        #[arg(last = true)]
        words: Vec<OsString>,
    },
    /// Print the manual as a man page
    #[command(after_long_help = examples::MAN)]
    Man {
        /// Command whose page it should be; fathom's own without
        command: Option<String>,
    },
}

/// What every command takes.
#[derive(Debug, Args)]
pub struct GlobalArgs {
    /// Say more on standard error; twice for debugging
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
    /// Say nothing on standard error but errors
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// When to use colors
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto", hide_possible_values = true)]
    #[arg(help = "When to use colors: auto, always, never")]
    pub color: ColorArg,
    /// Take the settings of this profile in the file; 'none' takes none
    #[arg(long, global = true, value_name = "NAME", help_heading = "Settings")]
    pub profile: Option<String>,
    /// Read the settings in this file
    #[arg(long, global = true, value_name = "FILE", help_heading = "Settings")]
    pub config: Option<PathBuf>,
    /// Read no file with settings
    #[arg(long, global = true, help_heading = "Settings")]
    pub no_config: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ColorArg {
    Auto,
    Always,
    Never,
}

/// What `run` and `chat` take.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Model, if -m names none, and prompt; '-' is standard input
    #[arg(value_name = "WORDS", help_heading = "Prompt")]
    pub words: Vec<OsString>,
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub prompt: PromptArgs,
    #[command(flatten)]
    pub generation: GenerationArgs,
    #[command(flatten)]
    pub engine: EngineArgs,
    #[command(flatten)]
    pub display: DisplayArgs,
}

/// What `config` takes: every option that is a setting, to see what it would be.
#[derive(Debug, Args)]
pub struct ConfigCommand {
    #[command(subcommand)]
    pub action: Option<ConfigAction>,
    /// Print JSON
    #[arg(long, help_heading = "Output")]
    pub json: bool,
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub generation: GenerationArgs,
    #[command(flatten)]
    pub engine: EngineArgs,
    #[command(flatten)]
    pub display: DisplayArgs,
}

#[derive(Debug, Subcommand)]
pub enum ConfigAction {
    /// Print the path of the file with settings
    Path,
    /// Open the file in $VISUAL or $EDITOR; a new one lists what can be set
    Edit,
    /// Print the value of a setting
    Get {
        /// Name of the setting: temp, model, default-profile, …
        key: String,
    },
    /// Set a value in the file; with --profile in a profile
    Set {
        /// Name of the setting: temp, model, default-profile, …
        key: String,
        /// Value; several folders for models
        #[arg(required = true, allow_negative_numbers = true)]
        value: Vec<String>,
    },
    /// Take a setting out of the file; with --profile out of a profile
    Unset {
        /// Name of the setting
        key: String,
    },
}

/// Which model.
#[derive(Debug, Args)]
#[command(next_help_heading = "Model")]
pub struct ModelArgs {
    /// Model: a GGUF file, or a name that 'fathom list' has
    #[arg(short, long, value_name = "MODEL")]
    pub model: Option<OsString>,
}

/// What to answer.
#[derive(Debug, Args)]
#[command(next_help_heading = "Prompt")]
pub struct PromptArgs {
    /// Prompt
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    pub prompt: Option<String>,
    /// Read the prompt from a file
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Answer a conversation: a JSON array of {"role", "content"}
    #[arg(long, value_name = "FILE")]
    pub messages: Option<PathBuf>,
    /// Continue these tokens: a JSON array of ids; implies --raw
    #[arg(long, value_name = "FILE")]
    pub tokens: Option<PathBuf>,
    /// Continue the text as it is, without the chat template (-no-cnv)
    #[arg(long, alias = "no-conversation")]
    pub raw: bool,
    /// Leave standard input alone, though it is a pipe or a file
    #[arg(long)]
    pub no_stdin: bool,
    /// Chat for one turn, then exit (-st)
    #[arg(long)]
    pub single_turn: bool,
}

/// What is generated.
#[derive(Debug, Args)]
#[command(next_help_heading = "Generation")]
pub struct GenerationArgs {
    /// System prompt (-sys)
    #[arg(long, value_name = "TEXT", alias = "system", allow_hyphen_values = true)]
    pub system_prompt: Option<String>,
    /// Most tokens to generate; -1 is no limit
    #[arg(short, long, value_name = "N", default_value = "-1", aliases = ["predict", "max-tokens"], allow_negative_numbers = true)]
    pub n_predict: i64,
    /// Most tokens of reasoning; -1 is no limit
    #[arg(long, value_name = "N", alias = "reasoning-budget", allow_negative_numbers = true)]
    pub think_budget: Option<i64>,
    /// Seed of the random numbers; -1 is a new one each time
    #[arg(short, long, value_name = "N", allow_negative_numbers = true)]
    pub seed: Option<i64>,
    /// Temperature; 0 always takes the likeliest token
    #[arg(long, value_name = "T", alias = "temperature", allow_negative_numbers = true)]
    pub temp: Option<f32>,
    /// Choose among the K likeliest tokens; 0 is all
    #[arg(long, value_name = "K", allow_negative_numbers = true)]
    pub top_k: Option<i64>,
    /// Choose among the likeliest tokens that have this share together
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub top_p: Option<f32>,
    /// Choose among tokens at least this likely, relative to the likeliest
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub min_p: Option<f32>,
    /// Divide the logits of tokens that came before; 1 is off
    #[arg(long, value_name = "R", allow_negative_numbers = true)]
    pub repeat_penalty: Option<f32>,
    /// How many tokens back penalties look; -1 is all
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub repeat_last_n: Option<i64>,
    /// Lower the logits of tokens that came before
    #[arg(long, value_name = "R", allow_negative_numbers = true)]
    pub presence_penalty: Option<f32>,
    /// Lower the logits of tokens for each time they came before
    #[arg(long, value_name = "R", allow_negative_numbers = true)]
    pub frequency_penalty: Option<f32>,
    /// End the answer before this text; may be given several times
    #[arg(
        short_alias = 'r',
        long,
        value_name = "TEXT",
        alias = "reverse-prompt",
        allow_hyphen_values = true
    )]
    pub stop: Vec<String>,
    /// Answer in JSON by this schema: a file, or the schema itself
    #[arg(
        short_alias = 'j',
        long,
        value_name = "SCHEMA",
        alias = "json-schema-file",
        conflicts_with = "grammar"
    )]
    pub json_schema: Option<String>,
    /// Answer by this grammar, Lark or GBNF: a file, or the grammar itself
    #[arg(long, value_name = "GRAMMAR", alias = "grammar-file")]
    pub grammar: Option<String>,
    /// Go on when the model says that it is done
    #[arg(long)]
    pub ignore_eos: bool,
}

/// How it is computed.
#[derive(Debug, Args)]
#[command(next_help_heading = "Computation")]
pub struct EngineArgs {
    /// Tokens of context; 0 is all that the model allows [default: what fits]
    #[arg(short, long, value_name = "N", alias = "ctx")]
    pub ctx_size: Option<usize>,
    /// Threads [default: one per core]
    #[arg(short, long, value_name = "N", allow_negative_numbers = true)]
    pub threads: Option<i64>,
    /// Threads, where --threads is not given (-tb)
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub threads_batch: Option<i64>,
    /// Tokens of the prompt to compute at once, at most
    #[arg(short, long, value_name = "N")]
    pub batch_size: Option<usize>,
    /// The same; the smaller counts (-ub) [default: 512]
    #[arg(long, value_name = "N")]
    pub ubatch_size: Option<usize>,
    /// Format of keys in the cache: f32, f16, q8_0 (-ctk)
    #[arg(long, value_name = "TYPE")]
    pub cache_type_k: Option<String>,
    /// Format of values in the cache (-ctv)
    #[arg(long, value_name = "TYPE")]
    pub cache_type_v: Option<String>,
    /// Form of DeepSeek's attention
    #[arg(long, value_name = "FORM", default_value = "auto", hide_possible_values = true)]
    #[arg(help = "Form of DeepSeek's attention: auto, absorbed, naive")]
    pub mla: MlaArg,
    #[command(flatten)]
    pub loading: LoadingArgs,
    #[command(flatten)]
    pub devices: DeviceArgs,
}

/// What goes to GPUs. Without any of these it is what fits.
#[derive(Debug, Args)]
#[command(next_help_heading = "Devices")]
pub struct DeviceArgs {
    /// GPUs to use: auto, none, or a list such as cuda0,cuda1 [default: auto]
    #[arg(long, value_name = "LIST")]
    pub device: Option<String>,
    /// Last layers to place on GPUs: a number, all, auto (-ngl) [default: auto]
    #[arg(long, value_name = "N", alias = "n-gpu-layers", allow_negative_numbers = true)]
    pub gpu_layers: Option<String>,
    /// Keep all experts in host memory
    #[arg(long)]
    pub cpu_moe: bool,
    /// Keep the experts of the first N layers in host memory
    #[arg(long, value_name = "N")]
    pub n_cpu_moe: Option<u32>,
    /// Send host experts to GPUs for batches from N tokens on [default: auto]
    ///
    /// A number of tokens, 'auto' for what two measured speeds say, or 'never'.
    #[arg(long, value_name = "N")]
    pub stream_experts: Option<String>,
    /// Host experts that a GPU holds at most, or auto [default: auto]
    ///
    /// Those used most, in memory that is left: 'auto' for as many as fit, 0 for none.
    #[arg(long, value_name = "N")]
    pub expert_slots: Option<String>,
}

/// How the file comes into memory.
#[derive(Debug, Args)]
pub struct LoadingArgs {
    /// Read the file into memory of the process instead of mapping it
    #[arg(long)]
    pub no_mmap: bool,
    /// Keep the weights from leaving memory
    #[arg(long)]
    pub mlock: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MlaArg {
    Auto,
    Absorbed,
    Naive,
}

/// What is shown.
#[derive(Debug, Args)]
#[command(next_help_heading = "Output")]
pub struct DisplayArgs {
    /// What to do with the model's reasoning
    #[arg(long, value_name = "HOW", hide_possible_values = true)]
    #[arg(help = "What to do with reasoning: show, hide, raw (leave it in the answer)")]
    pub think: Option<ThinkArg>,
    /// Format of the answer
    #[arg(long, value_name = "FORMAT", default_value = "text", hide_possible_values = true)]
    #[arg(help = "Format of the answer: text, json, jsonl")]
    pub format: FormatArg,
    /// Say how fast it was
    #[arg(long)]
    pub stats: bool,
    /// Show the Markdown of answers as it is
    #[arg(long)]
    pub no_style: bool,
    /// Keep no history of what is typed
    #[arg(long)]
    pub no_history: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ThinkArg {
    Show,
    Hide,
    Raw,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FormatArg {
    Text,
    Json,
    Jsonl,
}

#[derive(Debug, Args)]
pub struct QuantizeArgs {
    /// Model to read, file to write, and its type, such as Q4_K_M or Q8_0
    #[arg(value_name = "WORDS", required = true, num_args = 2..=3)]
    pub words: Vec<OsString>,
    /// Give tensors whose names fit a pattern another type
    #[arg(long, value_name = "PATTERN=TYPE")]
    pub tensor_type: Vec<String>,
    /// Give the output matrix another type
    #[arg(long, value_name = "TYPE")]
    pub output_tensor_type: Option<String>,
    /// Leave the output matrix as it is
    #[arg(long)]
    pub leave_output_tensor: bool,
    /// Give the token embedding another type
    #[arg(long, value_name = "TYPE")]
    pub token_embedding_type: Option<String>,
    /// Give all matrices the same type
    #[arg(long)]
    pub pure: bool,
    /// Encode by what matters: a file of 'fathom imatrix'
    #[arg(long, value_name = "FILE")]
    pub imatrix: Option<PathBuf>,
    /// Write shards of this size at most: 4G, 500M
    #[arg(long, value_name = "SIZE")]
    pub split_max_size: Option<String>,
    /// Write the shards that the input has
    #[arg(long)]
    pub keep_split: bool,
    /// If it ends early, keep what is done for another run
    #[arg(long)]
    pub keep_partial: bool,
    /// Threads [default: one per core]
    #[arg(short, long, value_name = "N", allow_negative_numbers = true)]
    pub threads: Option<i64>,
    /// Replace a file that exists
    #[arg(long)]
    pub force: bool,
    /// Say what would be written, and write nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct ShowArgs {
    /// Model; the bundled one without
    #[arg(value_name = "MODEL")]
    pub name: Option<OsString>,
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub engine: EngineArgs,
    /// Print JSON
    #[arg(long, help_heading = "Output")]
    pub json: bool,
    /// List the tensors too
    #[arg(long, help_heading = "Output")]
    pub tensors: bool,
    /// List the devices that models can run on, and nothing else
    #[arg(long, help_heading = "Output")]
    pub devices: bool,
}

#[derive(Debug, Args)]
pub struct ListArgs {
    /// Only names that hold this text
    #[arg(value_name = "TEXT")]
    pub filter: Option<String>,
    /// Print JSON
    #[arg(long, help_heading = "Output")]
    pub json: bool,
    /// Print the names alone, one a line; nothing is opened
    #[arg(long, help_heading = "Output", conflicts_with = "json")]
    pub names: bool,
}

/// A text to compute something of, and nothing to generate.
#[derive(Debug, Args)]
pub struct TextArgs {
    /// Model, if -m names none, and text; '-' is standard input
    #[arg(value_name = "WORDS", help_heading = "Text")]
    pub words: Vec<OsString>,
    #[command(flatten)]
    pub model: ModelArgs,
    /// Read the text from a file
    #[arg(short, long, value_name = "FILE", help_heading = "Text")]
    pub file: Option<PathBuf>,
    // No doc comment: rustdoc would take the token for HTML.
    #[arg(
        long,
        help_heading = "Text",
        help = "Take the text of special tokens, such as <think>, for the tokens"
    )]
    pub parse_special: bool,
}

#[derive(Debug, Args)]
pub struct TokenizeArgs {
    #[command(flatten)]
    pub text: TextArgs,
    /// Put the tokens around the text that the model wants there
    #[arg(long, help_heading = "Text")]
    pub add_special: bool,
    /// Print {"ids": […], "pieces": […]}
    #[arg(long, help_heading = "Output")]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct LogitsArgs {
    #[command(flatten)]
    pub text: TextArgs,
    /// Take these tokens, nothing added: a JSON array of ids
    #[arg(long, value_name = "FILE", help_heading = "Text")]
    pub tokens: Option<PathBuf>,
    /// Only the last N positions
    #[arg(long, value_name = "N", help_heading = "Output")]
    pub last: Option<usize>,
    /// File to write: safetensors with 'logits' [positions, n_vocab]
    #[arg(short, long, value_name = "FILE", help_heading = "Output")]
    pub output: PathBuf,
    #[command(flatten)]
    pub engine: EngineArgs,
}

#[derive(Debug, Args)]
pub struct PerplexityArgs {
    #[command(flatten)]
    pub text: TextArgs,
    /// Take these tokens, nothing added: a JSON array of ids
    #[arg(long, value_name = "FILE", help_heading = "Text")]
    pub tokens: Option<PathBuf>,
    /// Which tokens count
    #[arg(
        long,
        value_name = "WHICH",
        default_value = "half",
        hide_possible_values = true,
        help_heading = "Text"
    )]
    #[arg(help = "Tokens that count: half of each window, all, documents")]
    pub score: ScoreArg,
    /// Compare with this model: Kullback-Leibler divergence from its probabilities
    #[arg(long, value_name = "MODEL", help_heading = "Model")]
    pub kl_base: Option<OsString>,
    /// Print JSON, with the negative log-likelihood of each token
    #[arg(long, help_heading = "Output")]
    pub json: bool,
    #[command(flatten)]
    pub engine: EngineArgs,
}

#[derive(Debug, Args)]
pub struct ImatrixArgs {
    #[command(flatten)]
    pub text: TextArgs,
    /// Take these tokens, nothing added: a JSON array of ids
    #[arg(long, value_name = "FILE", help_heading = "Text")]
    pub tokens: Option<PathBuf>,
    /// Chunks of -c tokens to read at most [default: all]
    #[arg(long, value_name = "N", help_heading = "Text")]
    pub chunks: Option<usize>,
    /// Watch the output matrix too
    #[arg(long, help_heading = "Output")]
    pub process_output: bool,
    /// Add what this importance matrix has; may be given several times
    #[arg(long, value_name = "FILE", help_heading = "Text")]
    pub in_file: Vec<PathBuf>,
    /// File to write
    #[arg(short, long, value_name = "FILE", default_value = "imatrix.gguf", help_heading = "Output")]
    pub output: PathBuf,
    /// Replace a file that exists
    #[arg(long, help_heading = "Output")]
    pub force: bool,
    /// Print JSON
    #[arg(long, help_heading = "Output")]
    pub json: bool,
    #[command(flatten)]
    pub engine: EngineArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ScoreArg {
    Half,
    All,
    Documents,
}

#[derive(Debug, Args)]
pub struct BenchArgs {
    /// Model; the bundled one without
    #[arg(value_name = "MODEL")]
    pub name: Option<OsString>,
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub random: RandomArgs,
    #[command(flatten)]
    pub tests: TestArgs,
    #[command(flatten)]
    pub configs: ConfigArgs,
    #[command(flatten)]
    pub devices: DeviceArgs,
    /// Print JSON
    #[arg(long, help_heading = "Output")]
    pub json: bool,
}

/// Weights that no file has.
#[derive(Debug, Args)]
#[command(next_help_heading = "Model")]
pub struct RandomArgs {
    /// Random weights in memory in place of a model: the shape of which
    #[arg(long, value_name = "NAME")]
    pub shape: Option<String>,
    /// Types of these weights: f16, q8_0, q4_0, q4_k_m, q6_k [default: q4_k_m]
    #[arg(long, value_name = "MIX")]
    pub mix: Option<String>,
    /// Layers, if not as many as the shape has
    #[arg(long, value_name = "N")]
    pub layers: Option<usize>,
}

/// What is measured.
#[derive(Debug, Args)]
#[command(next_help_heading = "Tests")]
pub struct TestArgs {
    /// Tokens of a prompt; 0 is no prompt
    #[arg(short = 'p', long, value_name = "LIST", default_value = "512", value_delimiter = ',')]
    pub n_prompt: Vec<usize>,
    /// Tokens to generate; 0 is none
    #[arg(short = 'n', long, value_name = "LIST", default_value = "128", value_delimiter = ',')]
    pub n_gen: Vec<usize>,
    /// Tokens in the cache before
    #[arg(short = 'd', long, value_name = "LIST", default_value = "0", value_delimiter = ',')]
    pub n_depth: Vec<usize>,
    /// Tokens to generate at once, as in speculation
    #[arg(long, value_name = "LIST", default_value = "1", value_delimiter = ',')]
    pub batch: Vec<usize>,
    /// Times to measure each, after one to warm up
    #[arg(short, long, value_name = "N", default_value = "5")]
    pub repetitions: usize,
}

/// How it is computed.
#[derive(Debug, Args)]
#[command(next_help_heading = "Computation")]
pub struct ConfigArgs {
    /// Threads [default: one per core]
    #[arg(short, long, value_name = "LIST", value_delimiter = ',', allow_negative_numbers = true)]
    pub threads: Vec<i64>,
    /// Tokens of the prompt to compute at once, at most
    #[arg(short, long, value_name = "LIST", default_value = "2048", value_delimiter = ',')]
    pub batch_size: Vec<usize>,
    /// The same; the smaller counts (-ub)
    #[arg(long, value_name = "LIST", default_value = "512", value_delimiter = ',')]
    pub ubatch_size: Vec<usize>,
    /// Formats of keys in the cache: f32, f16, q8_0 (-ctk)
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub cache_type_k: Vec<String>,
    /// Formats of values in the cache (-ctv)
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    pub cache_type_v: Vec<String>,
    /// Form of DeepSeek's attention
    #[arg(long, value_name = "FORM", default_value = "auto", hide_possible_values = true)]
    #[arg(help = "Form of DeepSeek's attention: auto, absorbed, naive")]
    pub mla: MlaArg,
    #[command(flatten)]
    pub loading: LoadingArgs,
}
