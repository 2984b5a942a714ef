//! Part of fathom.
