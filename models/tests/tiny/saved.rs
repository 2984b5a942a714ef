//! Caches in files: what is loaded goes on as if it had never been away, and nothing else is loaded.

use ggml_sys::GgmlType;
use models::saved::Error;
use models::{Session, Want};

use crate::tiny::{bundled, engine};

fn session(cache: GgmlType) -> Session {
    Session::new(engine(&bundled(), 1, cache, None))
}

/// More than a chunk of the cache.
fn tokens() -> Vec<u32> {
    (0..300).map(|i| 3 + i * 7 % 1200).collect()
}

fn saved(session: &Session) -> Vec<u8> {
    let mut file = vec![];
    session.save(&mut file).unwrap();
    file
}

#[test]
fn a_loaded_session_goes_on_bit_by_bit() {
    for cache in [GgmlType::F16, GgmlType::Q8_0] {
        let mut one = session(cache);
        one.eval(&tokens(), Want::Nothing).unwrap();
        let file = saved(&one);
        let mut two = session(cache);
        two.eval(&[5, 6, 7], Want::Nothing).unwrap();
        two.load(&mut file.as_slice()).unwrap();
        assert_eq!(two.tokens(), tokens());
        assert_eq!(one.eval(&[9, 10], Want::All).unwrap(), two.eval(&[9, 10], Want::All).unwrap());
        assert_eq!(saved(&one), saved(&two));
    }
}

#[test]
fn an_empty_session_is_one_too() {
    let mut other = session(GgmlType::F16);
    other.eval(&[5, 6, 7], Want::Nothing).unwrap();
    other.load(&mut saved(&session(GgmlType::F16)).as_slice()).unwrap();
    assert!(other.tokens().is_empty() && other.engine().cache().is_empty(0));
    other.eval(&[5], Want::Last).unwrap();
}

#[test]
fn what_is_cut_or_damaged_is_refused_and_leaves_a_session_that_works() {
    let mut one = session(GgmlType::Q8_0);
    one.eval(&tokens()[..20], Want::Nothing).unwrap();
    let file = saved(&one);
    let mut two = session(GgmlType::Q8_0);
    let mut refuse = |bytes: &[u8], what: &str| {
        let error = two.load(&mut &*bytes).err().unwrap_or_else(|| panic!("{what}"));
        assert!(two.tokens().is_empty() && two.engine().cache().is_empty(0), "{what}: {error}");
        two.eval(&[5, 6], Want::Last).unwrap();
        error
    };
    for len in (0..file.len()).step_by(97).chain([file.len() - 1]) {
        assert!(matches!(refuse(&file[..len], "cut"), Error::Io(_)), "{len}");
    }
    // Behind the header every byte counts.
    for at in (36..file.len()).step_by(101).chain([file.len() - 1]) {
        let mut bytes = file.clone();
        bytes[at] ^= 1;
        assert!(matches!(refuse(&bytes, "damaged"), Error::Damaged), "{at}");
    }
    let with = |at: usize, new: &[u8]| {
        let mut bytes = file.clone();
        bytes[at..at + new.len()].copy_from_slice(new);
        bytes
    };
    assert!(matches!(refuse(&with(0, b"x"), "magic"), Error::Unknown));
    assert!(matches!(refuse(&with(8, &[2]), "version"), Error::Version(2)));
    assert!(matches!(refuse(&with(12, &[!file[12]]), "model"), Error::Model));
    for n in [1025, u64::MAX] {
        assert!(
            matches!(refuse(&with(28, &n.to_le_bytes()), "length"), Error::TooLong { tokens, n_ctx: 1024 } if tokens == n)
        );
    }
    // Fewer tokens than there are: the rest is taken for rows, and the checksum tells.
    assert!(matches!(refuse(&with(28, &3u64.to_le_bytes()), "fewer"), Error::Damaged));
    assert!(matches!(session(GgmlType::F16).load(&mut file.as_slice()), Err(Error::Types)));
}

#[test]
fn another_model_is_another() {
    let f16 = fathom_testing::fixtures::tiny_r1().f16;
    let mut one = Session::new(engine(&f16, 1, GgmlType::F16, None));
    one.eval(&[5, 6], Want::Nothing).unwrap();
    assert!(matches!(session(GgmlType::F16).load(&mut saved(&one).as_slice()), Err(Error::Model)));
}
