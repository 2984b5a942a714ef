//! The operations of a forward pass. An operation is one struct with its shape check and its scalar
//! reference, and one line in [`Op`]; backends implement them, and one conformance test holds every
//! backend to the references.
//!
//! They are coarse on purpose: few synchronizations on a CPU, few launches on a GPU.

mod add;
mod attention;
mod experts;
mod ffn;
mod linear;
mod mla;
mod norm;
mod rope;
mod router;
mod rows;
mod tally;

pub use add::Add;
pub use attention::{Attention, StoreKv};
pub use experts::Experts;
pub use ffn::GateUp;
pub use linear::{HeadLinear, Linear, Projection};
pub use mla::{KeyUp, MlaNaive};
pub use norm::RmsNorm;
pub use rope::{Pairing, Rope, RopeTable};
pub use router::{Gating, GroupScore, Groups, Router};
pub use rows::{Embed, SelectOutputs};
pub use tally::SumSquares;

use crate::error::Result;
use crate::graph::{Graph, SelId, TallyId, View};
use crate::reference::Machine;

/// What every operation can do.
pub trait Operation {
    /// Its name in messages.
    fn name(&self) -> &'static str;

    /// Checks the shapes of its operands.
    fn check(&self, g: &Graph) -> Result<()>;

    /// Says what it reads and writes.
    fn access(&self, a: &mut Access);

    /// Computes it the plain way, the truth that backends are held to.
    fn reference(&self, m: &mut Machine<'_>);
}

/// What an operation reads and writes, for planning.
#[derive(Default, Debug)]
pub struct Access {
    /// Columns that are read.
    pub reads: Vec<View>,
    /// Columns that are written.
    pub writes: Vec<View>,
    /// Selections that are read.
    pub sel_reads: Vec<SelId>,
    /// Selections that are written.
    pub sel_writes: Vec<SelId>,
    /// Layers of the cache whose rows of this batch are written.
    pub cache_writes: Vec<usize>,
    /// Layers of the cache that are read.
    pub cache_reads: Vec<usize>,
    /// Tallies that are added to.
    pub tally_writes: Vec<TallyId>,
}

macro_rules! ops {
    ($($name:ident),* $(,)?) => {
        /// One recorded operation.
        #[derive(Clone, Debug)]
        #[allow(missing_docs)] // the structs are documented
        pub enum Op { $($name($name)),* }

        impl Op {
            /// What it can do.
            pub fn operation(&self) -> &dyn Operation {
                match self { $(Op::$name(op) => op),* }
            }
        }

        $(impl From<$name> for Op {
            fn from(op: $name) -> Op { Op::$name(op) }
        })*
    };
}

ops! {
    Embed, SelectOutputs, Add, RmsNorm, Linear, HeadLinear, GateUp, RopeTable, Rope, StoreKv, Attention,
    MlaNaive, Router, Experts, SumSquares,
}
