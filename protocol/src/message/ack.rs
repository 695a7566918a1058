//! ACK: a promise about a disk. spec §5.6.

use serde::Serialize;

use super::{
    field::{DecodeError, Fields, Full, List, Writer},
    lane::Receipt,
};
use crate::id::{LaneId, Number};

/// How far the promise goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub enum Durability {
    /// The edge's own log was synced; the worker will follow.
    Spooled,
    /// The worker's log was synced.
    Stored,
    /// More than one copy was synced.
    Replicated,
}

impl Durability {
    /// The word of the design for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Spooled => "spooled",
            Self::Stored => "stored",
            Self::Replicated => "replicated",
        }
    }

    const fn bits(self) -> u8 {
        match self {
            Self::Spooled => 1,
            Self::Stored => 2,
            Self::Replicated => 3,
        }
    }

    const fn from_bits(bits: u8) -> Option<Self> {
        match bits {
            1 => Some(Self::Spooled),
            2 => Some(Self::Stored),
            3 => Some(Self::Replicated),
            _ => None,
        }
    }
}

/// All numbers of a lane through the last one are stored or refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Ack<'a> {
    /// Lane 0 goes on by 1 to 63 numbers.
    Step {
        /// How far the promise goes.
        durability: Durability,
        /// How many numbers past the last ack of lane 0.
        step: u8,
    },
    /// A lane, its last number and, where they are wanted, receipts.
    Spelled {
        /// How far the promise goes.
        durability: Durability,
        /// Which lane.
        lane: LaneId,
        /// The last number that is stored or refused.
        last: Number,
        /// What became of the numbers up to it; empty with short acks or when spooled.
        receipts: List<'a, Receipt>,
    },
}

/// The longest step of a short ack.
pub const STEP_MAX: u8 = 63;

impl<'a> Ack<'a> {
    /// Is this the long form, which the frame's tag says?
    #[must_use]
    pub const fn is_spelled(&self) -> bool {
        matches!(self, Self::Spelled { .. })
    }

    /// Reads either form.
    pub fn decode(spelled: bool, header: &'a [u8]) -> Result<Self, DecodeError> {
        let mut fields = Fields::new(header);
        let first = fields.byte("Ack.durability")?;
        let durability =
            Durability::from_bits(first & 3).ok_or(DecodeError::malformed("Ack.durability"))?;
        let step = first >> 2;
        if !spelled {
            let whole = step > 0 && fields.is_empty();
            return if whole {
                Ok(Self::Step { durability, step })
            } else {
                Err(DecodeError::malformed("Ack.step"))
            };
        }
        if step != 0 {
            return Err(DecodeError::malformed("Ack.step"));
        }
        let lane = LaneId(fields.varint32("Ack.lane")?);
        let last = Number(fields.varint("Ack.last")?);
        let none = fields.is_empty();
        let receipts = fields.take_or("Ack.receipts", List::default())?;
        // spec §5.6.3: no receipts are not spelled, and nothing stands behind them.
        if !fields.is_empty() || (receipts == List::default() && !none) {
            return Err(DecodeError::malformed("Ack"));
        }
        Ok(Self::Spelled { durability, lane, last, receipts })
    }

    /// Writes either form.
    pub fn encode(&self, out: &mut Writer<'_>) -> Result<(), Full> {
        match *self {
            Self::Step { durability, step } if (1..=STEP_MAX).contains(&step) => {
                out.raw(&[durability.bits() | step << 2])
            }
            Self::Step { .. } => Err(Full),
            Self::Spelled { durability, lane, last, ref receipts } => {
                out.raw(&[durability.bits()])?;
                out.varint(u64::from(lane.0))?;
                out.varint(last.0)?;
                if *receipts == List::default() { Ok(()) } else { out.put(receipts) }
            }
        }
    }
}
