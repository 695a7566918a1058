//! Mistakes that can be made on purpose, so that a test shows that the suite finds them. Without the feature `planted` no
//! mistake can be made: every question here is answered with no.

/// A mistake.
#[cfg(feature = "planted")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// Acknowledge before the sync returned.
    AckBeforeSync,
    /// Do not sync the folder after a rename.
    NoFolderSync,
    /// Sync again after a sync failed, and go on.
    RetryFailedSync,
    /// Cut the log at any bad check, proven synced or not.
    CutAtAnyBadCrc,
    /// Look for records behind a bad place.
    ScanForRecords,
    /// Take a short write for a whole one.
    IgnoreShortWrite,
    /// Serve what the page cache shows without writing it again.
    TrustTheTail,
}

/// The mistake that this log makes, if any.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Slips {
    #[cfg(feature = "planted")]
    pub(crate) mistake: Option<Mistake>,
}

impl Slips {
    /// The mistake that these options ask for.
    pub(crate) fn of(options: &crate::Options) -> Self {
        #[cfg(feature = "planted")]
        {
            Self { mistake: options.planted }
        }
        #[cfg(not(feature = "planted"))]
        {
            let _: &crate::Options = options;
            Self {}
        }
    }
}

macro_rules! slips {
    ($($name:ident: $mistake:ident),* $(,)?) => {
        impl Slips {
            $(
                #[cfg(feature = "planted")]
                pub(crate) fn $name(self) -> bool {
                    self.mistake == Some(Mistake::$mistake)
                }
                #[cfg(not(feature = "planted"))]
                pub(crate) const fn $name(self) -> bool {
                    false
                }
            )*
        }
    };
}

slips! {
    acks_before_sync: AckBeforeSync,
    skips_folder_sync: NoFolderSync,
    retries_failed_sync: RetryFailedSync,
    cuts_anywhere: CutAtAnyBadCrc,
    scans_for_records: ScanForRecords,
    ignores_short_writes: IgnoreShortWrite,
    trusts_the_tail: TrustTheTail,
}
