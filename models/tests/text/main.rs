//! From text to tokens and from messages to text, for vocabularies and templates made up to be awkward.

mod exercise;
mod hostile_vocab;
mod made_up_vocab;
mod small;
mod spell;
mod templates;

use small::Small;
use spell::spell;
