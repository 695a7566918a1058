//! Reading and writing fields: postcard's encoding, kept canonical.
//!
//! A message is its fields one after the other (spec §3.1). What is missing at the end has defaults, what follows the
//! known fields inside the declared length is skipped (spec §3.3), and a longer form of a number than needed is refused,
//! which postcard alone would take: each field is encoded again and compared.

use core::marker::PhantomData;

use serde::{Deserialize, Serialize};

use crate::{code::Code, varint};

/// Why a frame that is whole is not a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} is {}", match *code { Code::TOO_LARGE => "longer than allowed", Code::UNKNOWN_KIND => "not known", Code(_) => "malformed" })]
pub struct DecodeError {
    /// What the peer is told.
    pub code: Code,
    /// The field, or the message.
    pub what: &'static str,
}

impl DecodeError {
    /// `what` does not have the form the protocol gives it.
    #[must_use]
    pub const fn malformed(what: &'static str) -> Self {
        Self { code: Code::MALFORMED, what }
    }

    /// `what` is above its limit.
    #[must_use]
    pub const fn too_large(what: &'static str) -> Self {
        Self { code: Code::TOO_LARGE, what }
    }
}

/// The output buffer is too short for the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the buffer is too short for the message")]
pub struct Full;

/// Fields, read one after the other.
#[derive(Clone, Debug)]
pub struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    /// The fields in `bytes`.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What has not been read.
    #[must_use]
    #[inline]
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Is there nothing more?
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next field, which must be there.
    pub fn take<T: Deserialize<'a> + Serialize>(
        &mut self,
        what: &'static str,
    ) -> Result<T, DecodeError> {
        let malformed = DecodeError::malformed(what);
        let (value, rest) = postcard::take_from_bytes::<T>(self.rest).map_err(|_| malformed)?;
        let used = self.rest.get(..self.rest.len() - rest.len()).ok_or(malformed)?;
        let same =
            postcard::serialize_with_flavor::<T, Compare<'_>, bool>(&value, Compare { rest: used });
        if same != Ok(true) {
            return Err(malformed);
        }
        self.rest = rest;
        Ok(value)
    }

    /// The next field, or `default` where the message ends before it.
    pub fn take_or<T: Deserialize<'a> + Serialize>(
        &mut self,
        what: &'static str,
        default: T,
    ) -> Result<T, DecodeError> {
        if self.rest.is_empty() { Ok(default) } else { self.take(what) }
    }

    /// The next canonical varint.
    #[inline]
    pub fn varint(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        let malformed = DecodeError::malformed(what);
        let (value, used) = varint::decode(self.rest).map_err(|_| malformed)?;
        self.rest = self.rest.get(used..).ok_or(malformed)?;
        Ok(value)
    }

    /// The next varint, which must fit 32 bits.
    #[inline]
    pub fn varint32(&mut self, what: &'static str) -> Result<u32, DecodeError> {
        u32::try_from(self.varint(what)?).map_err(|_| DecodeError::malformed(what))
    }

    /// Nothing may follow what was read.
    #[inline]
    pub(super) const fn end(&self, what: &'static str) -> Result<(), DecodeError> {
        if self.is_empty() { Ok(()) } else { Err(DecodeError::malformed(what)) }
    }

    /// Goes past a length and that many bytes, however long: where they end is not what they may be.
    pub(super) fn skip_bytes(&mut self) -> Option<()> {
        let length = usize::try_from(self.varint("").ok()?).ok()?;
        self.skip(length)
    }

    /// Goes past `count` bytes.
    pub(super) fn skip(&mut self, count: usize) -> Option<()> {
        self.rest = self.rest.get(count..)?;
        Some(())
    }

    /// Goes past `count` varints.
    pub(super) fn skip_varints(&mut self, count: u32) -> Option<()> {
        (0..count).try_for_each(|_| self.varint("").ok().map(drop))
    }

    /// The next byte.
    #[inline]
    pub fn byte(&mut self, what: &'static str) -> Result<u8, DecodeError> {
        let (&byte, rest) = self.rest.split_first().ok_or(DecodeError::malformed(what))?;
        self.rest = rest;
        Ok(byte)
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], DecodeError> {
        let (array, rest) =
            self.rest.split_first_chunk::<N>().ok_or(DecodeError::malformed(what))?;
        self.rest = rest;
        Ok(*array)
    }

    /// The next length and that many bytes, at most `longest`.
    pub fn bytes(&mut self, what: &'static str, longest: usize) -> Result<&'a [u8], DecodeError> {
        let length = self.varint(what)?;
        let length = usize::try_from(length).ok().filter(|&length| length <= longest);
        let (bytes, rest) = self
            .rest
            .split_at_checked(length.ok_or(DecodeError::too_large(what))?)
            .ok_or(DecodeError::malformed(what))?;
        self.rest = rest;
        Ok(bytes)
    }

    /// The next length and that many bytes of UTF-8, at most `longest`.
    pub fn text(&mut self, what: &'static str, longest: usize) -> Result<&'a str, DecodeError> {
        core::str::from_utf8(self.bytes(what, longest)?).map_err(|_| DecodeError::malformed(what))
    }
}

/// A field whose length has a limit of its own (spec §12.3).
pub(crate) trait Fits {
    /// Is no part of it longer than allowed?
    fn fits(&self, longest: usize) -> bool;
}

impl Fits for &str {
    fn fits(&self, longest: usize) -> bool {
        self.len() <= longest
    }
}

impl Fits for &[u8] {
    fn fits(&self, longest: usize) -> bool {
        self.len() <= longest
    }
}

impl Fits for Option<&str> {
    fn fits(&self, longest: usize) -> bool {
        self.is_none_or(|text| text.len() <= longest)
    }
}

impl<T> Fits for List<'_, T> {
    fn fits(&self, longest: usize) -> bool {
        self.bytes.len() <= longest
    }
}

/// Refuses what is longer than allowed.
pub(crate) fn limited(
    value: &impl Fits,
    longest: usize,
    what: &'static str,
) -> Result<(), DecodeError> {
    if value.fits(longest) { Ok(()) } else { Err(DecodeError::too_large(what)) }
}

/// Bytes, which people read as hexadecimal digits.
struct Hex<'a>(&'a [u8]);

impl core::fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Serializes bytes: as they are on the wire, as hexadecimal digits for people.
pub(crate) fn hex<T: AsRef<[u8]> + Serialize, S: serde::Serializer>(
    bytes: &T,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    if serializer.is_human_readable() {
        serializer.collect_str(&Hex(bytes.as_ref()))
    } else {
        bytes.serialize(serializer)
    }
}

/// The same for bytes that may be absent.
pub(super) fn hex_option<S: serde::Serializer>(
    bytes: &Option<[u8; 32]>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match bytes {
        Some(bytes) if serializer.is_human_readable() => serializer.collect_str(&Hex(bytes)),
        Some(_) | None => bytes.serialize(serializer),
    }
}

/// A postcard output that keeps nothing: it compares what is written with what was read.
struct Compare<'a> {
    rest: &'a [u8],
}

impl postcard::ser_flavors::Flavor for Compare<'_> {
    type Output = bool;

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.try_extend(&[byte])
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.rest = self.rest.strip_prefix(bytes).ok_or(postcard::Error::SerializeBufferFull)?;
        Ok(())
    }

    fn finalize(self) -> postcard::Result<bool> {
        Ok(self.rest.is_empty())
    }
}

/// Fields, written one after the other into the caller's buffer.
#[derive(Debug)]
pub struct Writer<'a> {
    out: &'a mut [u8],
    at: usize,
}

impl<'a> Writer<'a> {
    /// Writes to the front of `out`.
    #[must_use]
    pub const fn new(out: &'a mut [u8]) -> Self {
        Self { out, at: 0 }
    }

    /// How much was written.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.at
    }

    /// Was nothing written?
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.at == 0
    }

    /// One field in postcard's encoding.
    pub fn put<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Full> {
        let free = self.out.get_mut(self.at..).ok_or(Full)?;
        self.at += postcard::to_slice(value, free).map_err(|_| Full)?.len();
        Ok(())
    }

    /// A varint.
    #[inline]
    pub fn varint(&mut self, value: u64) -> Result<(), Full> {
        self.at += varint::encode(value, self.out.get_mut(self.at..).ok_or(Full)?).ok_or(Full)?;
        Ok(())
    }

    /// Bytes as they are.
    #[inline]
    pub fn raw(&mut self, bytes: &[u8]) -> Result<(), Full> {
        let free = self.out.get_mut(self.at..).ok_or(Full)?;
        free.get_mut(..bytes.len()).ok_or(Full)?.copy_from_slice(bytes);
        self.at += bytes.len();
        Ok(())
    }

    /// A length and what `write` writes.
    pub fn counted(
        &mut self,
        write: impl FnOnce(&mut Self) -> Result<(), Full>,
    ) -> Result<(), Full> {
        // Room for the longest length, then moved up: nothing is kept elsewhere.
        let (at, begin) = (self.at, self.at + varint::MAX_BYTES);
        self.at = begin;
        write(self)?;
        let (end, length) = (self.at, self.at - begin);
        self.at = at;
        self.varint(u64::try_from(length).map_err(|_| Full)?)?;
        if end > self.out.len() {
            return Err(Full);
        }
        self.out.copy_within(begin..end, self.at);
        self.at += length;
        Ok(())
    }

    /// A length and bytes.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), Full> {
        self.varint(u64::try_from(bytes.len()).map_err(|_| Full)?)?;
        self.raw(bytes)
    }
}

/// A list of `T`: a byte string that holds the items one after the other (spec §3.2). Checked when it is decoded.
pub struct List<'a, T> {
    bytes: &'a [u8],
    items: PhantomData<fn() -> T>,
}

impl<T> Clone for List<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for List<'_, T> {}

impl<T> Default for List<'_, T> {
    fn default() -> Self {
        Self { bytes: &[], items: PhantomData }
    }
}

impl<T> PartialEq for List<'_, T> {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl<T> Eq for List<'_, T> {}

impl<'a, T: Deserialize<'a> + Serialize + core::fmt::Debug> core::fmt::Debug for List<'a, T> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<'a, T: Deserialize<'a> + Serialize> List<'a, T> {
    /// Encodes `items` into `out`, to be sent.
    pub fn encode(items: impl IntoIterator<Item = T>, out: &'a mut [u8]) -> Result<Self, Full> {
        let mut writer = Writer::new(out);
        for item in items {
            writer.put(&item)?;
        }
        let Writer { out, at } = writer;
        Ok(Self { bytes: out.get(..at).ok_or(Full)?, items: PhantomData })
    }

    /// The items in order.
    pub fn iter(&self) -> impl Iterator<Item = T> + use<'a, T> {
        let mut fields = Fields::new(self.bytes);
        core::iter::from_fn(
            move || if fields.is_empty() { None } else { fields.take("a list").ok() },
        )
    }
}

impl<'a, T: Deserialize<'a> + Serialize> Serialize for List<'a, T> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_seq(self.iter())
        } else {
            serializer.serialize_bytes(self.bytes)
        }
    }
}

impl<'de: 'a, 'a, T: Deserialize<'a> + Serialize> Deserialize<'de> for List<'a, T> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = <&'a [u8]>::deserialize(deserializer)?;
        let mut fields = Fields::new(bytes);
        while !fields.is_empty() {
            fields.take::<T>("a list").map_err(|_| serde::de::Error::custom("list"))?;
        }
        Ok(Self { bytes, items: PhantomData })
    }
}

/// Declares a message that is fields in postcard's encoding: those before `;` must be there, those behind it have
/// defaults where an older peer left them out. `[limit]` behind a type: the most bytes it may have.
macro_rules! fields {
    ($(#[$doc:meta])* $name:ident $(<$life:lifetime>)? { $($(#[$fdoc:meta])* $field:ident: $type:ty $([$longest:expr])?,)* ; $($(#[$tdoc:meta])* $tail:ident: $ttype:ty $([$tlongest:expr])? = $default:expr,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
        pub struct $name $(<$life>)? {
            $($(#[$fdoc])* pub $field: $type,)*
            $($(#[$tdoc])* pub $tail: $ttype,)*
        }

        impl $(<$life>)? $name $(<$life>)? {
            /// Reads the message from its fields; what follows the known ones is skipped.
            pub fn decode(header: &$($life)? [u8]) -> Result<Self, $crate::message::DecodeError> {
                let mut fields = $crate::message::Fields::new(header);
                Ok(Self {
                    $($field: {
                        let what = concat!(stringify!($name), ".", stringify!($field));
                        let value: $type = fields.take(what)?;
                        $($crate::message::field::limited(&value, $longest, what)?;)?
                        value
                    },)*
                    $($tail: {
                        let what = concat!(stringify!($name), ".", stringify!($tail));
                        let value: $ttype = fields.take_or(what, $default)?;
                        $($crate::message::field::limited(&value, $tlongest, what)?;)?
                        value
                    },)*
                })
            }

            /// Writes the message's fields.
            pub fn encode(&self, out: &mut $crate::message::Writer<'_>) -> Result<(), $crate::message::Full> {
                $(out.put(&self.$field)?;)*
                $(out.put(&self.$tail)?;)*
                Ok(())
            }
        }
    };
}
pub(super) use fields;
