//! A folder with files as AWS delivers them to S3: five minutes of records in each, by the end of their windows.
//!
//! A file is written under a temporary name and renamed once it is complete. Its name contains a hash of the position of its first
//! line, so a file that is written again after a kill replaces the earlier one, with at least the same lines.

use std::{
    fmt::Write as _,
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::SystemTime,
};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use taskgate_model::{FlowLog, LogFolder};

use super::{Batch, NextWrite, PreparedWrite, Sink, SinkError};
use crate::{
    fault::{Fault, first_part, point},
    format::header,
};

/// The period of a file in seconds.
const PERIOD: u64 = 300;
/// Seconds after the end of a period at which its file is written: no more lines are expected then.
const LATE: u64 = 15;
/// Bytes of waiting lines from which on a file is written before the end of its period: another file of the same period follows.
const FULL: usize = 8 << 20;

/// A folder with files as AWS delivers them to S3.
pub struct FolderSink {
    folder: LogFolder,
    /// The header line before the records.
    header: Bytes,
    /// A hash of instance, flow log id and start, which goes into the names of the files.
    identity: u32,
}

impl FolderSink {
    /// The folder of a flow log of an instance; `began` distinguishes it from earlier outputs to the same folder.
    pub fn new(folder: &LogFolder, log: &FlowLog, instance: &str, began: u64) -> Self {
        let mut identity = crc32fast::Hasher::new();
        identity.update(instance.as_bytes());
        identity.update(folder.id.as_bytes());
        identity.update(&began.to_le_bytes());
        Self {
            folder: folder.clone(),
            header: header(log),
            identity: identity.finalize(),
        }
    }

    /// The folder and the name of a period's file. `position`: that of its first line.
    fn place(&self, period: u64, position: u64) -> (PathBuf, String) {
        let LogFolder {
            path,
            id,
            account,
            region,
            hive_partitions,
            hourly_partitions,
        } = &self.folder;
        let (year, month, day) = date(period / 86_400);
        let (hour, minute) = (period / 3600 % 24, period / 60 % 60);
        let mut under = if *hive_partitions {
            format!(
                "AWSLogs/aws-account-id={account}/aws-service=vpcflowlogs/aws-region={region}/year={year:04}/month={month:02}/day={day:02}"
            )
        } else {
            format!("AWSLogs/{account}/vpcflowlogs/{region}/{year:04}/{month:02}/{day:02}")
        };
        if *hourly_partitions {
            let key = if *hive_partitions { "hour=" } else { "" };
            // Writing to a string cannot fail.
            let _written = write!(under, "/{key}{hour:02}");
        }
        let mut hash = crc32fast::Hasher::new_with_initial(self.identity);
        hash.update(&period.to_le_bytes());
        hash.update(&position.to_le_bytes());
        let hash = hash.finalize();
        let time = format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}Z");
        let name = format!("{account}_vpcflowlogs_{region}_{id}_{time}_{hash:08x}.log.gz");
        (path.join(under), name)
    }

    /// Writes a file.
    fn deliver(&self, folder: &Path, name: &str, batches: &[Batch]) -> Result<(), SinkError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o750)
            .create(folder)
            .map_err(|source| SinkError::path("make", folder, source))?;
        let beside = folder.join(format!(".{name}.new"));
        let failed = |operation| {
            let beside = &beside;
            move |source| SinkError::path(operation, beside, source)
        };
        let written = self.write_file(&beside, batches).map_err(failed("write"));
        if let Err(error) = written {
            // The disk may be full: the partial file would take room.
            let _left = fs::remove_file(&beside);
            return Err(error);
        }
        fs::rename(&beside, folder.join(name)).map_err(failed("rename"))
    }

    fn write_file(&self, path: &Path, batches: &[Batch]) -> io::Result<()> {
        // An existing file of this name may be a symbolic link.
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = OpenOptions::new().write(true).create_new(true).mode(0o640).open(path)?;
        file.set_permissions(Permissions::from_mode(0o640))?;
        let mut file = GzEncoder::new(file, Compression::default());
        file.write_all(&self.header)?;
        for Batch { lines, .. } in batches {
            let (first, rest) = lines.split_at(first_part(lines.len()));
            file.write_all(first)?;
            point(Fault::PartlyTaken);
            file.write_all(rest)?;
        }
        let file: File = file.finish()?;
        file.sync_all()
    }
}

impl Sink for FolderSink {
    fn prepare(&mut self, _: &NextWrite<'_>) -> Result<PreparedWrite, SinkError> {
        // The folder is not created: if its disk is not mounted, records would go to the file system below.
        if self.folder.path.is_dir() {
            return Ok(PreparedWrite::default());
        }
        let path = self.folder.path.clone();
        Err(SinkError::NoFolder { path })
    }

    fn write(&mut self, next: &NextWrite<'_>) -> Result<usize, SinkError> {
        let Some(first) = next.batches.first() else {
            return Ok(0);
        };
        let period = first.end - first.end % PERIOD;
        let within = |batch: &&Batch| batch.end - batch.end % PERIOD == period;
        let count = next.batches.iter().take_while(within).count();
        let batches = &next.batches[..count];
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        let over = count < next.batches.len() || now.as_secs() >= period + PERIOD + LATE;
        if !over && !next.ending && next.bytes < FULL {
            return Ok(0);
        }
        let (folder, name) = self.place(period, next.position);
        self.deliver(&folder, &name, batches)?;
        Ok(batches.iter().map(|batch| batch.lines.len()).sum())
    }

    fn batches(&self) -> usize {
        usize::MAX
    }
}

/// Year, month and day of a day since 1970, by the Gregorian calendar.
fn date(days: u64) -> (u64, u64, u64) {
    // Years are counted from March, so that the leap day comes last, in eras of 400 years, which all have the same length.
    let shifted = days + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::date;

    #[test]
    fn days_have_the_dates_of_the_calendar() {
        for (days, want) in [
            (0, (1970, 1, 1)),
            (58, (1970, 2, 28)),
            (59, (1970, 3, 1)),
            (789, (1972, 2, 29)),
            (11_016, (2000, 2, 29)),
            (20_453, (2025, 12, 31)),
            (20_454, (2026, 1, 1)),
            (47_540, (2100, 2, 28)),
            (47_541, (2100, 3, 1)),
        ] {
            assert_eq!(date(days), want, "{days}");
        }
    }
}
