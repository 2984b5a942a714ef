//! Instruction sets: which there are, which this machine has, which one is used.

use std::sync::OnceLock;

#[cfg(target_arch = "aarch64")]
use super::aarch64;
use super::scalar::Scalar;
#[cfg(target_arch = "x86_64")]
use super::x86;

/// An instruction set that there are kernels for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Isa {
    /// Any machine.
    Scalar,
    /// AVX2, FMA, F16C: Haswell, Zen and later.
    Avx2,
    /// AVX2 with dot products of bytes (AVX-VNNI): Alder Lake and later.
    Avx2Vnni,
    /// AVX-512 F, BW, DQ, VL: Skylake-X and later.
    Avx512,
    /// AVX-512 with VNNI: Cascade Lake, Ice Lake, Zen 4 and later.
    Avx512Vnni,
    /// AVX-512 with VNNI and AMX: Sapphire Rapids and later, under Linux.
    Amx,
    /// NEON: any 64-bit ARM.
    Neon,
    /// NEON with dot products of bytes: Cortex-A76, Neoverse N1, Apple's and later.
    NeonDot,
}

impl Isa {
    /// Whether one instruction multiplies bytes and adds the products to a sum.
    pub(super) fn has_dot(self) -> bool {
        match self {
            Isa::Scalar | Isa::Avx2 | Isa::Avx512 | Isa::Neon => false,
            Isa::Avx2Vnni | Isa::Avx512Vnni | Isa::Amx | Isa::NeonDot => true,
        }
    }

    /// All of them, on whatever architecture, the least capable first.
    pub const ALL: &'static [Isa] = &[
        Isa::Scalar,
        Isa::Avx2,
        Isa::Avx2Vnni,
        Isa::Avx512,
        Isa::Avx512Vnni,
        Isa::Amx,
        Isa::Neon,
        Isa::NeonDot,
    ];

    /// Its name in `FATHOM_CPU`.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::Avx2Vnni => "avx2vnni",
            Isa::Avx512 => "avx512",
            Isa::Avx512Vnni => "avx512vnni",
            Isa::Amx => "amx",
            Isa::Neon => "neon",
            Isa::NeonDot => "neondot",
        }
    }
}

/// The proof that this machine has an instruction set.
#[derive(Clone, Copy)]
pub(super) enum Machine {
    Scalar(Scalar),
    #[cfg(target_arch = "x86_64")]
    Avx2(x86::avx2::Avx2<x86::avx2::Words>),
    #[cfg(target_arch = "x86_64")]
    Avx2Vnni(x86::avx2::Avx2<x86::avx2::Vnni>),
    #[cfg(target_arch = "x86_64")]
    Avx512(x86::avx512::Avx512<x86::avx512::Words>),
    #[cfg(target_arch = "x86_64")]
    Avx512Vnni(x86::avx512::Avx512<x86::avx512::Vnni>),
    #[cfg(target_arch = "x86_64")]
    Amx(x86::avx512::Avx512<x86::amx::Tiles>),
    #[cfg(target_arch = "aarch64")]
    Neon(aarch64::Neon<aarch64::Words>),
    #[cfg(target_arch = "aarch64")]
    NeonDot(aarch64::Neon<aarch64::Dot>),
}

impl Machine {
    fn detect(isa: Isa) -> Option<Machine> {
        match isa {
            Isa::Scalar => Some(Machine::Scalar(Scalar)),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => x86::avx2::Avx2::<x86::avx2::Words>::detect().map(Machine::Avx2),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2Vnni => x86::avx2::Avx2::<x86::avx2::Vnni>::detect().map(Machine::Avx2Vnni),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => x86::avx512::Avx512::<x86::avx512::Words>::detect().map(Machine::Avx512),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni => x86::avx512::Avx512::<x86::avx512::Vnni>::detect().map(Machine::Avx512Vnni),
            #[cfg(target_arch = "x86_64")]
            Isa::Amx => x86::avx512::Avx512::<x86::amx::Tiles>::detect().map(Machine::Amx),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => aarch64::Neon::<aarch64::Words>::detect().map(Machine::Neon),
            #[cfg(target_arch = "aarch64")]
            Isa::NeonDot => aarch64::Neon::<aarch64::Dot>::detect().map(Machine::NeonDot),
            // Of another architecture.
            _ => None,
        }
    }
}

/// Why there are no kernels of that name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectError {
    /// No such instruction set.
    #[error("unknown instruction set {name:?}; known here: {known}")]
    Unknown {
        /// What was asked for.
        name: String,
        /// What this machine can run.
        known: String,
    },
    /// This machine lacks it.
    #[error("this machine has no {name}; it can run {known}")]
    Unavailable {
        /// What was asked for.
        name: &'static str,
        /// What this machine can run.
        known: String,
    },
}

/// The kernels of one instruction set. A value of this type exists only where the machine has it.
pub struct Kernels {
    pub(super) isa: Isa,
    pub(super) machine: Machine,
}

impl std::fmt::Debug for Kernels {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Kernels({})", self.isa.name())
    }
}

/// What this machine can run, the least capable first. Tests and benches iterate this.
pub fn available() -> impl Iterator<Item = &'static Kernels> {
    static ALL: OnceLock<Vec<Kernels>> = OnceLock::new();
    let all = || {
        let kernels = |&isa: &Isa| Machine::detect(isa).map(|machine| Kernels { isa, machine });
        Isa::ALL.iter().filter_map(kernels).collect()
    };
    ALL.get_or_init(all).iter()
}

/// The kernels with this name in `FATHOM_CPU`.
pub fn select(name: &str) -> Result<&'static Kernels, SelectError> {
    let known = || available().map(|k| k.isa.name()).collect::<Vec<_>>().join(", ");
    match Isa::ALL.iter().find(|isa| isa.name() == name) {
        None => Err(SelectError::Unknown { name: name.to_owned(), known: known() }),
        Some(isa) => available()
            .find(|k| k.isa == *isa)
            .ok_or_else(|| SelectError::Unavailable { name: isa.name(), known: known() }),
    }
}

/// What `FATHOM_CPU` asks for, else the best of this machine.
pub fn from_environment() -> Result<&'static Kernels, SelectError> {
    match std::env::var("FATHOM_CPU") {
        Ok(name) if !name.is_empty() => select(&name),
        _ => Ok(best()),
    }
}

/// The kernels to use: [`from_environment`], or the best of this machine where that is an error, which a
/// program shows at its start.
pub fn kernels() -> &'static Kernels {
    static CHOSEN: OnceLock<&'static Kernels> = OnceLock::new();
    CHOSEN.get_or_init(|| from_environment().unwrap_or_else(|_| best()))
}

fn best() -> &'static Kernels {
    available().last().expect("there is always the scalar one")
}

/// `$body` for each instruction set, with `$s` the proof of the one that `$kernels` has.
macro_rules! with_isa {
    ($kernels:expr, |$s:ident| $body:expr) => {
        match $kernels.machine {
            Machine::Scalar($s) => $body,
            #[cfg(target_arch = "x86_64")]
            Machine::Avx2($s) => $body,
            #[cfg(target_arch = "x86_64")]
            Machine::Avx2Vnni($s) => $body,
            #[cfg(target_arch = "x86_64")]
            Machine::Avx512($s) => $body,
            #[cfg(target_arch = "x86_64")]
            Machine::Avx512Vnni($s) => $body,
            #[cfg(target_arch = "x86_64")]
            Machine::Amx($s) => $body,
            #[cfg(target_arch = "aarch64")]
            Machine::Neon($s) => $body,
            #[cfg(target_arch = "aarch64")]
            Machine::NeonDot($s) => $body,
        }
    };
}
pub(super) use with_isa;
