//! Values of metadata keys. Strings and arrays stay where they are in the file.

use std::fmt;
use std::sync::Arc;

use super::error::Quoted;
use crate::tensor::Bytes;

/// Type of a metadata value as numbered in files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
#[repr(u32)]
pub enum ValueType {
    U8 = 0,
    I8 = 1,
    U16 = 2,
    I16 = 3,
    U32 = 4,
    I32 = 5,
    F32 = 6,
    Bool = 7,
    String = 8,
    Array = 9,
    U64 = 10,
    I64 = 11,
    F64 = 12,
}

impl ValueType {
    /// The type with this number.
    pub fn from_code(code: u32) -> Option<Self> {
        use ValueType::*;
        const ALL: [ValueType; 13] = [U8, I8, U16, I16, U32, I32, F32, Bool, String, Array, U64, I64, F64];
        ALL.get(code as usize).copied()
    }

    /// Bytes of one value; `None` for strings and arrays, which state their own length.
    pub fn size(self) -> Option<usize> {
        use ValueType::*;
        match self {
            U8 | I8 | Bool => Some(1),
            U16 | I16 => Some(2),
            U32 | I32 | F32 => Some(4),
            U64 | I64 | F64 => Some(8),
            String | Array => None,
        }
    }

    /// Its name: `u32`.
    pub fn name(self) -> &'static str {
        use ValueType::*;
        match self {
            U8 => "u8",
            I8 => "i8",
            U16 => "u16",
            I16 => "i16",
            U32 => "u32",
            I32 => "i32",
            F32 => "f32",
            Bool => "bool",
            String => "string",
            Array => "array",
            U64 => "u64",
            I64 => "i64",
            F64 => "f64",
        }
    }
}

impl fmt::Display for ValueType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// The value of a metadata key.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    U64(u64),
    I64(i64),
    F32(f32),
    F64(f64),
    Bool(bool),
    String(Text),
    Array(Array),
}

impl Value {
    /// Its type.
    pub fn ty(&self) -> ValueType {
        match self {
            Value::U8(_) => ValueType::U8,
            Value::I8(_) => ValueType::I8,
            Value::U16(_) => ValueType::U16,
            Value::I16(_) => ValueType::I16,
            Value::U32(_) => ValueType::U32,
            Value::I32(_) => ValueType::I32,
            Value::U64(_) => ValueType::U64,
            Value::I64(_) => ValueType::I64,
            Value::F32(_) => ValueType::F32,
            Value::F64(_) => ValueType::F64,
            Value::Bool(_) => ValueType::Bool,
            Value::String(_) => ValueType::String,
            Value::Array(_) => ValueType::Array,
        }
    }

    /// The integer, of whichever integer type.
    pub fn integer(&self) -> Option<i128> {
        Some(match *self {
            Value::U8(v) => v.into(),
            Value::I8(v) => v.into(),
            Value::U16(v) => v.into(),
            Value::I16(v) => v.into(),
            Value::U32(v) => v.into(),
            Value::I32(v) => v.into(),
            Value::U64(v) => v.into(),
            Value::I64(v) => v.into(),
            _ => return None,
        })
    }

    /// The number as F32: an F32, or an F64 rounded to nearest.
    pub fn float(&self) -> Option<f32> {
        match *self {
            Value::F32(v) => Some(v),
            Value::F64(v) => Some(v as f32),
            _ => None,
        }
    }

    /// The array.
    pub fn array(&self) -> Option<&Array> {
        match self {
            Value::Array(a) => Some(a),
            _ => None,
        }
    }

    /// Type and value in few words, for error messages: `the u32 7`, `an array of 3 strings`.
    pub(super) fn describe(&self) -> String {
        match self {
            Value::String(s) => format!("the string {}", Quoted(s.as_bytes())),
            Value::Array(a) => format!("an array of {} {}", a.len(), a.element_type()),
            v => format!("the {} {v}", v.ty()),
        }
    }
}

/// As in a listing: numbers and strings in full, arrays as their type and length.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::U8(v) => v.fmt(f),
            Value::I8(v) => v.fmt(f),
            Value::U16(v) => v.fmt(f),
            Value::I16(v) => v.fmt(f),
            Value::U32(v) => v.fmt(f),
            Value::I32(v) => v.fmt(f),
            Value::U64(v) => v.fmt(f),
            Value::I64(v) => v.fmt(f),
            // As literals: with an exponent where hundreds of zeros would stand otherwise.
            Value::F32(v) => write!(f, "{v:?}"),
            Value::F64(v) => write!(f, "{v:?}"),
            Value::Bool(v) => v.fmt(f),
            Value::String(s) => String::from_utf8_lossy(s.as_bytes()).fmt(f),
            Value::Array(a) => write!(f, "[{}; {}]", a.element_type(), a.len()),
        }
    }
}

impl From<&str> for Value {
    fn from(s: &str) -> Self {
        Value::String(Text(Bytes::from_vec(s.into())))
    }
}

impl From<bool> for Value {
    fn from(v: bool) -> Self {
        Value::Bool(v)
    }
}

impl From<StringArray> for Value {
    fn from(a: StringArray) -> Self {
        Value::Array(Array::Strings(a))
    }
}

macro_rules! from_numbers {
    ($($ty:ident $variant:ident),*) => {$(
        impl From<$ty> for Value {
            fn from(v: $ty) -> Self {
                Value::$variant(v)
            }
        }

        impl From<&[$ty]> for Value {
            fn from(values: &[$ty]) -> Self {
                let bytes = Bytes::from_vec(values.iter().flat_map(|v| v.to_le_bytes()).collect());
                Value::Array(Array::Numbers(NumberArray { ty: ValueType::$variant, size: size_of::<$ty>(), bytes }))
            }
        }
    )*};
}
from_numbers!(u8 U8, i8 I8, u16 U16, i16 I16, u32 U32, i32 I32, u64 U64, i64 I64, f32 F32, f64 F64);

impl From<&[bool]> for Value {
    fn from(values: &[bool]) -> Self {
        let bytes = Bytes::from_vec(values.iter().map(|&v| v.into()).collect());
        Value::Array(Array::Numbers(NumberArray { ty: ValueType::Bool, size: 1, bytes }))
    }
}

/// A string of the file. Nothing promises that it is UTF-8.
#[derive(Clone)]
pub struct Text(Bytes);

impl Text {
    pub(super) fn new(bytes: Bytes) -> Self {
        Text(bytes)
    }

    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The string, or where it stops being UTF-8.
    pub fn as_str(&self) -> Result<&str, std::str::Utf8Error> {
        std::str::from_utf8(&self.0)
    }
}

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&Quoted(self.as_bytes()), f)
    }
}

/// An array: of strings, or of numbers or booleans of one type.
#[derive(Clone, Debug, PartialEq)]
pub enum Array {
    /// Strings.
    Strings(StringArray),
    /// Numbers or booleans.
    Numbers(NumberArray),
}

impl Array {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Array::Strings(a) => a.len(),
            Array::Numbers(a) => a.len(),
        }
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Type of the elements.
    pub fn element_type(&self) -> ValueType {
        match self {
            Array::Strings(_) => ValueType::String,
            Array::Numbers(a) => a.ty,
        }
    }
}

/// Numbers or booleans of one type, where they lie in the file.
#[derive(Clone)]
pub struct NumberArray {
    ty: ValueType,
    size: usize,
    bytes: Bytes,
}

impl NumberArray {
    /// `None` if `ty` has no fixed size. `bytes` are the whole elements.
    pub(super) fn new(ty: ValueType, bytes: Bytes) -> Option<Self> {
        Some(NumberArray { ty, size: ty.size()?, bytes })
    }

    /// The elements as they lie in files, little-endian.
    pub fn encoded(&self) -> &[u8] {
        &self.bytes
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.bytes.len() / self.size
    }

    /// Whether it has no elements.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Type of the elements.
    pub fn ty(&self) -> ValueType {
        self.ty
    }

    /// Element `i`.
    pub fn get(&self, i: usize) -> Option<Value> {
        let start = i.checked_mul(self.size)?;
        let bytes = self.bytes.get(start..start.checked_add(self.size)?)?;
        number(self.ty, bytes)
    }

    /// All elements.
    pub fn iter(&self) -> impl Iterator<Item = Value> + '_ {
        self.bytes.chunks_exact(self.size).filter_map(|b| number(self.ty, b))
    }
}

impl PartialEq for NumberArray {
    fn eq(&self, other: &Self) -> bool {
        self.ty == other.ty && *self.bytes == *other.bytes
    }
}

impl fmt::Debug for NumberArray {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}; {}]", self.ty, self.len())
    }
}

/// One number from exactly its bytes; `None` for strings, arrays and bytes of another length.
pub(super) fn number(ty: ValueType, bytes: &[u8]) -> Option<Value> {
    Some(match ty {
        ValueType::U8 => Value::U8(u8::from_le_bytes(bytes.try_into().ok()?)),
        ValueType::I8 => Value::I8(i8::from_le_bytes(bytes.try_into().ok()?)),
        ValueType::U16 => Value::U16(u16::from_le_bytes(bytes.try_into().ok()?)),
        ValueType::I16 => Value::I16(i16::from_le_bytes(bytes.try_into().ok()?)),
        ValueType::U32 => Value::U32(u32::from_le_bytes(bytes.try_into().ok()?)),
        ValueType::I32 => Value::I32(i32::from_le_bytes(bytes.try_into().ok()?)),
        ValueType::U64 => Value::U64(u64::from_le_bytes(bytes.try_into().ok()?)),
        ValueType::I64 => Value::I64(i64::from_le_bytes(bytes.try_into().ok()?)),
        ValueType::F32 => Value::F32(f32::from_le_bytes(bytes.try_into().ok()?)),
        ValueType::F64 => Value::F64(f64::from_le_bytes(bytes.try_into().ok()?)),
        ValueType::Bool => Value::Bool(u8::from_le_bytes(bytes.try_into().ok()?) != 0),
        ValueType::String | ValueType::Array => return None,
    })
}

/// Strings of the file, in one piece: a vocabulary has hundreds of thousands of them.
///
/// Elements may hold any bytes; a token of a byte-level vocabulary need not be UTF-8.
#[derive(Clone)]
pub struct StringArray {
    /// From the first element's length to the last element's end.
    bytes: Bytes,
    /// Where each element's 64-bit length starts in `bytes`, and the end of `bytes`.
    starts: Arc<[u32]>,
}

impl StringArray {
    /// `starts` are the offsets of the elements in `bytes`, followed by the length of `bytes`.
    pub(super) fn new(bytes: Bytes, starts: Vec<u32>) -> Self {
        StringArray { bytes, starts: starts.into() }
    }

    /// An array of one's own; `None` if it takes more than 4 GiB.
    pub fn from_strings<S: AsRef<[u8]>>(strings: impl IntoIterator<Item = S>) -> Option<Self> {
        let (mut bytes, mut starts) = (Vec::new(), vec![0]);
        for s in strings {
            let s = s.as_ref();
            bytes.extend((s.len() as u64).to_le_bytes());
            bytes.extend(s);
            starts.push(u32::try_from(bytes.len()).ok()?);
        }
        Some(StringArray::new(Bytes::from_vec(bytes), starts))
    }

    /// The strings as they lie in files: each a 64-bit length and its bytes.
    pub(super) fn encoded(&self) -> &[u8] {
        &self.bytes
    }

    /// Number of strings.
    pub fn len(&self) -> usize {
        self.starts.len() - 1
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bytes of string `i`.
    pub fn get(&self, i: usize) -> Option<&[u8]> {
        let (start, end) = (*self.starts.get(i)?, *self.starts.get(i + 1)?);
        Some(&self.bytes[start as usize + size_of::<u64>()..end as usize])
    }

    /// String `i`; `None` also if it is not UTF-8.
    pub fn get_str(&self, i: usize) -> Option<&str> {
        std::str::from_utf8(self.get(i)?).ok()
    }

    /// The bytes of all strings in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> + '_ {
        let bytes: &[u8] = &self.bytes;
        self.starts.windows(2).map(move |w| &bytes[w[0] as usize + size_of::<u64>()..w[1] as usize])
    }
}

impl PartialEq for StringArray {
    fn eq(&self, other: &Self) -> bool {
        self.starts == other.starts && *self.bytes == *other.bytes
    }
}

impl fmt::Debug for StringArray {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[string; {}]", self.len())
    }
}
