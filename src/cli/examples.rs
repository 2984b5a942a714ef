//! Examples for the long help of each command. A test runs all of them, in a folder with `model.gguf`, `report.txt`, `text.txt` and
//! `person.json`.

pub const FATHOM: &str = "\
Examples:
  fathom \"What is 47 + 85?\"
  fathom -m model.gguf \"Why is the sky blue?\"
  cat report.txt | fathom -m model.gguf -p \"Summarize this\" > summary.txt
  fathom chat model.gguf
  fathom show model.gguf

Without a command, 'run' is meant; 'fathom help COMMAND' has its options and examples. Options
can also be set in the environment (FATHOM_THREADS=4 is --threads 4) and in a file with
profiles: 'fathom config' lists them.";

pub const RUN: &str = "\
Examples:
  fathom run \"What is 47 + 85?\"                          # the model in the binary
  fathom run model.gguf \"Why is the sky blue?\"
  fathom run -m model.gguf -f report.txt \"Summarize this\"
  cat report.txt | fathom run -m model.gguf -p \"Summarize this\" > summary.txt
  fathom run -m model.gguf --format json \"2 + 2?\" > answer.json
  fathom run -m model.gguf --json-schema person.json \"Ada is 36\"
  fathom run -m model.gguf --think-budget 100 -n 200 --stats \"2 + 2?\"
  for n in 1 2 3; do fathom run -q --no-stdin \"What is $n + 1?\"; done

With a prompt there is one answer; without one, and with a terminal at both ends, a chat.
The answer is on standard output, all else on standard error. The exit code is 0 when it
is done, 1 when it failed, 2 for wrong usage, 130 after Ctrl-C.";

pub const CHAT: &str = "\
Examples:
  fathom chat
  fathom chat model.gguf -sys \"Be brief.\"
  printf 'What is 2 + 2?\\nNow add 15 to that.\\n' | fathom chat

/help in a chat lists its commands and keys.";

pub const QUANTIZE: &str = "\
Examples:
  fathom quantize model.gguf Q8_0                          # writes model-Q8_0.gguf
  fathom quantize --dry-run model.gguf Q4_K_M
  fathom imatrix -m model.gguf -f text.txt -o imatrix.gguf
  fathom quantize --imatrix imatrix.gguf model.gguf small.gguf Q4_K_M
  fathom quantize --tensor-type 'attn_output=Q8_0' --force model.gguf small.gguf Q4_0";

pub const SHOW: &str = "\
Examples:
  fathom show model.gguf
  fathom show model.gguf -c 2048 -ctk q8_0 -ctv q8_0       # the memory with such a context
  fathom show --json --tensors model.gguf > model.json";

pub const LIST: &str = "\
Examples:
  fathom list
  fathom list r1                                           # those with that in the name
  FATHOM_MODELS=. fathom list --json > models.json

Looked for are GGUF files in the folders of FATHOM_MODELS or the setting 'models', in
Hugging Face's cache and in ollama's store. Each can be named as it is listed: -m NAME.";

pub const CONFIG: &str = "\
Examples:
  fathom config                                            # every setting, and who sets it
  fathom config --temp 0.3 -m model.gguf                   # the same with these options
  fathom config path
  fathom config set threads 4
  fathom config set --profile coder temp 0.5
  fathom config set --profile coder system-prompt \"You are a careful programmer.\"
  fathom --profile coder \"What is 2 + 2?\"
  fathom config set default-profile coder
  fathom config get temp
  fathom config unset threads

'fathom config edit' opens the file in $VISUAL or $EDITOR; a new one lists all that can be set.
An option counts before the environment, that before the profile, that before the rest.";

pub const TOKENIZE: &str = "\
Examples:
  fathom tokenize -m model.gguf \"Hello, world\"
  fathom tokenize -m model.gguf --json -f text.txt > tokens.json
  printf '<think>' | fathom tokenize -m model.gguf --parse-special";

pub const LOGITS: &str = "\
Examples:
  fathom logits -m model.gguf -o logits.safetensors \"Hello, world\"
  fathom logits -m model.gguf -o last.safetensors --last 1 -f text.txt";

pub const PERPLEXITY: &str = "\
Examples:
  fathom perplexity -m model.gguf -f text.txt -c 64
  fathom quantize --force model.gguf small.gguf Q4_0
  fathom perplexity -m small.gguf -f text.txt -c 64 --kl-base model.gguf";

pub const IMATRIX: &str = "\
Examples:
  fathom imatrix -m model.gguf -f text.txt -o matters.gguf -c 64
  fathom quantize --imatrix matters.gguf --force model.gguf small.gguf IQ4_XS";

pub const BENCH: &str = "\
Examples:
  fathom bench -m model.gguf -p 64 -n 16 -r 2
  fathom bench -m model.gguf -p 0 -n 8 -d 0,128 -r 1       # generation behind so many tokens
  fathom bench -m model.gguf -p 64 -n 0 -r 1 --json > bench.json";

pub const COMPLETIONS: &str = "\
Examples:
  fathom completions bash > fathom.bash                    # then in ~/.bashrc: source fathom.bash
  fathom completions zsh > _fathom                         # into a folder of $fpath
  fathom completions fish > fathom.fish                    # into ~/.config/fish/completions

Those for bash, zsh and fish also complete names of models and profiles.";

pub const MAN: &str = "\
Examples:
  fathom man > fathom.1
  fathom man run > fathom-run.1                            # then: man ./fathom-run.1";
