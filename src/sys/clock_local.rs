//! Wall clock seconds as local calendar time.
//!
//! libc caches the time zone's table after the first call, so that no file is read for each line; nix has no
//! wrapper.
//! Truth: localtime_r(3).
#![allow(unsafe_code)]

/// Local time in calendar fields, to the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalTime {
    pub year: i32,
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
    pub hour: u8,
    pub minute: u8,
    /// 0 to 60 (a leap second).
    pub second: u8,
    /// East of Greenwich, in minutes; negative to the west.
    pub offset_min: i32,
}

/// Reads `TZ` again, after the environment has changed.
pub fn read_zone() {
    // SAFETY: the signature is POSIX's.
    unsafe extern "C" {
        fn tzset();
    }
    // SAFETY: tzset(3) reads the environment, which no other thread can change: the process still has only
    // one.
    unsafe { tzset() }
}

/// Converts `secs` (since 1970-01-01 UTC) to local calendar fields.
///
/// A year that does not fit libc's `int` gives the epoch: a wrong clock must not prevent a log line.
pub fn local_time(secs: i64) -> LocalTime {
    // SAFETY: `tm` is plain data for which all-zero bytes are a value (integers and a null pointer).
    let mut fields: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to live values of this frame; localtime_r writes only to the second.
    let done = unsafe { libc::localtime_r(&secs, &mut fields) };
    if done.is_null() {
        return LocalTime { year: 1970, month: 1, day: 1, hour: 0, minute: 0, second: 0, offset_min: 0 };
    }
    LocalTime {
        year: fields.tm_year.saturating_add(1900),
        month: fields.tm_mon as u8 + 1,
        day: fields.tm_mday as u8,
        hour: fields.tm_hour as u8,
        minute: fields.tm_min as u8,
        second: fields.tm_sec as u8,
        offset_min: (fields.tm_gmtoff / 60) as i32,
    }
}

/// Appends a time formatted by strftime(3), in local time or UTC. Nothing is appended if the result exceeds 4
/// KiB.
pub fn format(secs: i64, is_gmt: bool, format: &[u8], out: &mut Vec<u8>) {
    const BYTES_MAX: usize = 4096;
    let Ok(format) = std::ffi::CString::new(format) else { return };
    // SAFETY: `tm` is plain data for which all-zero bytes are a value (integers and a null pointer).
    let mut fields: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: all pointers are to live values of this frame; the calls write only to the second.
    let done = unsafe {
        if is_gmt { libc::gmtime_r(&secs, &mut fields) } else { libc::localtime_r(&secs, &mut fields) }
    };
    if done.is_null() {
        return;
    }
    let start = out.len();
    out.resize(start + BYTES_MAX, 0);
    // SAFETY: the buffer has BYTES_MAX bytes after `start`, the format ends with a NUL, the fields are filled
    // in.
    let count =
        unsafe { libc::strftime(out[start..].as_mut_ptr().cast(), BYTES_MAX, format.as_ptr(), &fields) };
    out.truncate(start + count.min(BYTES_MAX));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offset_and_fields_agree_with_the_second() {
        // The zone of the machine is not ours to choose: undo the offset and compare with UTC.
        let time = local_time(1_700_000_000); // 2023-11-14 22:13:20 UTC
        let of_day = i32::from(time.hour) * 60 + i32::from(time.minute) - time.offset_min;
        assert_eq!(of_day.rem_euclid(24 * 60), 22 * 60 + 13);
        assert_eq!((time.year, time.month, time.second), (2023, 11, 20));
        assert!((14..=15).contains(&time.day));
    }

    #[test]
    fn formats_as_strftime() {
        let mut out = b"x".to_vec();
        format(1_700_000_000, true, b"%A, %d-%b-%Y %H:%M:%S %Z%%", &mut out);
        assert_eq!(out, b"xTuesday, 14-Nov-2023 22:13:20 GMT%");
        let length = out.len();
        format(i64::MAX, true, b"%Y", &mut out);
        format(0, true, b"", &mut out);
        assert_eq!(out.len(), length, "no such year, and nothing to write");
    }

    #[test]
    fn a_year_beyond_int_is_the_epoch() {
        assert_eq!(local_time(i64::MAX).year, 1970);
    }
}
