//! `START_TIME` and its like: moments in UTC under a `strftime` format.
//!
//! Envoy's formats are those of `absl::FormatTime` with `%f`, `%1f` … `%9f` for
//! parts of a second and `%s`, `%3s` … for seconds since the epoch.

use std::time::SystemTime;

/// A moment taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instantaneous {
    seconds: i64,
    nanos: u32,
}

impl From<SystemTime> for Instantaneous {
    fn from(at: SystemTime) -> Self {
        match at.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(d) => Self {
                seconds: i64::try_from(d.as_secs()).unwrap_or(i64::MAX),
                nanos: d.subsec_nanos(),
            },
            Err(before) => {
                let d = before.duration();
                Self {
                    seconds: -i64::try_from(d.as_secs()).unwrap_or(i64::MAX) - 1,
                    nanos: 999_999_999 - d.subsec_nanos(),
                }
            }
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Literal(Box<str>),
    /// `%Y` and its like, by letter.
    Field(u8),
    /// `%E3S`: seconds with so many digits after the point.
    SecondsWith(usize),
    /// `%3f`: the fraction alone.
    Fraction(usize),
    /// `%s`, `%3s`: seconds since the epoch, and a fraction without a point.
    Epoch(usize),
    /// `%Ez`: `+00:00`.
    ZoneWithColon,
}

/// A parsed time format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimeFormat {
    /// `None` is ISO 8601 with milliseconds, which has its own fast writer.
    pieces: Option<Box<[Piece]>>,
}

const FIELDS: &str = "YmdHMSTFzZjaAbhBeyIpDRuwtCkl%crxXUWGgV";
const DAYS: [&str; 7] = [
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

impl TimeFormat {
    /// Envoy's default: `2026-01-31T12:00:00.123Z`.
    pub const ISO_8601: Self = Self { pieces: None };

    /// Parses a format; an empty one is the default.
    ///
    /// # Errors
    /// A specifier that is not known.
    pub fn parse(format: &str) -> Result<Self, String> {
        if format.is_empty() {
            return Ok(Self::ISO_8601);
        }
        // The text may become a header. Behind a percent sign, too, as in Envoy.
        if format.contains('\n') || format.contains("%n") {
            return Err(format!("{format:?} writes a line feed"));
        }
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut rest = format;
        while let Some((before, after)) = rest.split_once('%') {
            literal.push_str(before);
            let (piece, length) = specifier(after.as_bytes())
                .ok_or_else(|| format!("unknown time format specifier in {format:?}"))?;
            if !literal.is_empty() {
                pieces.push(Piece::Literal(std::mem::take(&mut literal).into()));
            }
            pieces.push(piece);
            rest = &after[length..];
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal.into()));
        }
        Ok(Self {
            pieces: Some(pieces.into()),
        })
    }

    /// Appends the moment.
    pub fn write(&self, out: &mut Vec<u8>, at: Instantaneous) {
        let civil = Civil::of(at.seconds);
        let Some(pieces) = &self.pieces else {
            return civil.iso_8601(out, at.nanos);
        };
        for piece in pieces {
            match piece {
                Piece::Literal(text) => out.extend_from_slice(text.as_bytes()),
                Piece::Field(letter) => civil.field(out, *letter),
                Piece::SecondsWith(digits) => {
                    padded(out, civil.second.into(), 2);
                    if *digits > 0 {
                        out.push(b'.');
                        fraction(out, at.nanos, *digits);
                    }
                }
                Piece::Fraction(digits) => fraction(out, at.nanos, *digits),
                Piece::Epoch(digits) => {
                    out.extend_from_slice(itoa::Buffer::new().format(at.seconds).as_bytes());
                    fraction(out, at.nanos, *digits);
                }
                Piece::ZoneWithColon => out.extend_from_slice(b"+00:00"),
            }
        }
    }
}

/// The specifier after a `%`, and its length.
fn specifier(after: &[u8]) -> Option<(Piece, usize)> {
    let digits = |b: u8| usize::from(b - b'0');
    Some(match *after {
        [b'f', ..] => (Piece::Fraction(9), 1),
        [b's', ..] => (Piece::Epoch(0), 1),
        [d @ b'1'..=b'9', b'f', ..] => (Piece::Fraction(digits(d)), 2),
        [d @ b'1'..=b'9', b's', ..] => (Piece::Epoch(digits(d)), 2),
        [b'E', d @ b'0'..=b'9', b'S', ..] => (Piece::SecondsWith(digits(d)), 3),
        [b'E', d @ b'0'..=b'9', b'f', ..] => (Piece::Fraction(digits(d)), 3),
        [b'E', b'z', ..] => (Piece::ZoneWithColon, 2),
        [b'E', b'4', b'Y', ..] => (Piece::Field(b'Y'), 3),
        [letter, ..] if FIELDS.as_bytes().contains(&letter) => (Piece::Field(letter), 1),
        _ => return None,
    })
}

/// A date and time of day in UTC.
struct Civil {
    year: i64,
    month: u8,
    day: u8,
    hour: u8,
    minute: u8,
    second: u8,
    /// From Sunday.
    weekday: u8,
    /// From 1.
    yearday: u16,
}

impl Civil {
    /// By Howard Hinnant's `civil_from_days`.
    fn of(seconds: i64) -> Self {
        let days = seconds.div_euclid(86_400);
        let time = seconds.rem_euclid(86_400);
        let shifted = days + 719_468;
        let era = shifted.div_euclid(146_097);
        let day_of_era = shifted.rem_euclid(146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let from_march = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * from_march + 2) / 153;
        let day = from_march - (153 * month_from_march + 2) / 5 + 1;
        let month = if month_from_march < 10 {
            month_from_march + 3
        } else {
            month_from_march - 9
        };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let yearday = if month > 2 {
            from_march + 60 + i64::from(leap)
        } else {
            from_march - 305
        };
        let small = |n: i64| u8::try_from(n).expect("a part of a date fits");
        Self {
            year,
            month: small(month),
            day: small(day),
            hour: small(time / 3_600),
            minute: small(time / 60 % 60),
            second: small(time % 60),
            weekday: small((days + 4).rem_euclid(7)),
            yearday: u16::try_from(yearday).expect("a year has 366 days"),
        }
    }

    fn iso_8601(&self, out: &mut Vec<u8>, nanos: u32) {
        let two = |n: u8| [b'0' + n / 10, b'0' + n % 10];
        padded(out, self.year.unsigned_abs(), 4);
        let (mo, d) = (two(self.month), two(self.day));
        let (h, mi, s) = (two(self.hour), two(self.minute), two(self.second));
        out.extend_from_slice(&[
            b'-', mo[0], mo[1], b'-', d[0], d[1], b'T', h[0], h[1], b':', mi[0], mi[1], b':', s[0],
            s[1], b'.',
        ]);
        fraction(out, nanos, 3);
        out.push(b'Z');
    }

    fn field(&self, out: &mut Vec<u8>, letter: u8) {
        let all = |out: &mut Vec<u8>, format: &[u8]| {
            for &b in format {
                match b.is_ascii_alphabetic() {
                    true => self.field(out, b),
                    false => out.push(b),
                }
            }
        };
        let hour12 = match self.hour % 12 {
            0 => 12,
            h => h,
        };
        match letter {
            b'Y' => out.extend_from_slice(itoa::Buffer::new().format(self.year).as_bytes()),
            b'C' => padded(out, self.year.unsigned_abs() / 100, 2),
            b'y' => padded(out, self.year.unsigned_abs() % 100, 2),
            b'm' => padded(out, self.month.into(), 2),
            b'd' => padded(out, self.day.into(), 2),
            b'e' => blank_padded(out, self.day),
            b'H' => padded(out, self.hour.into(), 2),
            b'k' => blank_padded(out, self.hour),
            b'I' => padded(out, hour12.into(), 2),
            b'l' => blank_padded(out, hour12),
            b'M' => padded(out, self.minute.into(), 2),
            b'S' => padded(out, self.second.into(), 2),
            b'j' => padded(out, self.yearday.into(), 3),
            b'p' => out.extend_from_slice(if self.hour < 12 { b"AM" } else { b"PM" }),
            b'a' => out.extend_from_slice(&DAYS[usize::from(self.weekday)].as_bytes()[..3]),
            b'A' => out.extend_from_slice(DAYS[usize::from(self.weekday)].as_bytes()),
            b'b' | b'h' => {
                out.extend_from_slice(&MONTHS[usize::from(self.month - 1)].as_bytes()[..3]);
            }
            b'B' => out.extend_from_slice(MONTHS[usize::from(self.month - 1)].as_bytes()),
            b'u' => padded(
                out,
                if self.weekday == 0 {
                    7
                } else {
                    self.weekday.into()
                },
                1,
            ),
            b'w' => padded(out, self.weekday.into(), 1),
            b'U' => padded(out, self.week_from(0), 2),
            b'W' => padded(out, self.week_from(1), 2),
            b'V' => padded(out, self.iso_week().1, 2),
            b'G' => padded(out, self.iso_week().0.unsigned_abs(), 4),
            b'g' => padded(out, self.iso_week().0.unsigned_abs() % 100, 2),
            b'T' | b'X' => all(out, b"H:M:S"),
            b'R' => all(out, b"H:M"),
            b'r' => all(out, b"I:M:S p"),
            b'F' => all(out, b"Y-m-d"),
            b'D' | b'x' => all(out, b"m/d/y"),
            b'c' => all(out, b"a b e H:M:S Y"),
            b'z' => out.extend_from_slice(b"+0000"),
            b'Z' => out.extend_from_slice(b"UTC"),
            b't' => out.push(b'\t'),
            _ => out.push(letter),
        }
    }

    /// The week of the year, counted from the first Sunday (0) or Monday (1).
    fn week_from(&self, first: u8) -> u64 {
        let into_week = u16::from((self.weekday + 7 - first) % 7);
        u64::from((self.yearday + 6 - into_week) / 7)
    }

    /// Year and week by ISO 8601.
    fn iso_week(&self) -> (i64, u64) {
        let weeks = |year: i64| {
            let dec_31 = |y: i64| (y + y.div_euclid(4) - y.div_euclid(100) + y.div_euclid(400)) % 7;
            if dec_31(year) == 4 || dec_31(year - 1) == 3 {
                53
            } else {
                52
            }
        };
        let weekday = if self.weekday == 0 {
            7
        } else {
            i64::from(self.weekday)
        };
        match (i64::from(self.yearday) - weekday + 10) / 7 {
            0 => (self.year - 1, weeks(self.year - 1)),
            53 if weeks(self.year) == 52 => (self.year + 1, 1),
            week => (self.year, week.unsigned_abs()),
        }
    }
}

fn padded(out: &mut Vec<u8>, number: u64, width: usize) {
    let mut buffer = itoa::Buffer::new();
    let text = buffer.format(number);
    out.extend(std::iter::repeat_n(b'0', width.saturating_sub(text.len())));
    out.extend_from_slice(text.as_bytes());
}

fn blank_padded(out: &mut Vec<u8>, number: u8) {
    if number < 10 {
        out.push(b' ');
    }
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

fn fraction(out: &mut Vec<u8>, mut nanos: u32, digits: usize) {
    let mut text = [b'0'; 9];
    for slot in text.iter_mut().rev() {
        *slot = b'0' + (nanos % 10) as u8;
        nanos /= 10;
    }
    out.extend_from_slice(&text[..digits]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(format: &str, seconds: i64, nanos: u32) -> String {
        let mut out = Vec::new();
        TimeFormat::parse(format)
            .unwrap()
            .write(&mut out, Instantaneous { seconds, nanos });
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_default_is_iso_8601_with_milliseconds() {
        assert_eq!(show("", 0, 0), "1970-01-01T00:00:00.000Z");
        assert_eq!(
            show("", 1_709_210_096, 7_999_999),
            "2024-02-29T12:34:56.007Z"
        );
        assert_eq!(
            show("%Y-%m-%dT%H:%M:%E3SZ", 951_782_400, 0),
            "2000-02-29T00:00:00.000Z"
        );
    }

    #[test]
    fn parts_of_a_second_have_as_many_digits_as_asked() {
        assert_eq!(
            show("%s.%3f|%f|%6f|%3s", 12, 123_456_789),
            "12.123|123456789|123456|12123"
        );
    }

    #[test]
    fn dates_are_named_as_in_c() {
        let t = 1_709_210_096;
        assert_eq!(
            show("%a, %d %b %Y %T %Z", t, 0),
            "Thu, 29 Feb 2024 12:34:56 UTC"
        );
        assert_eq!(
            show("%j %U %W %V %G %I%p %e", t, 0),
            "060 08 09 09 2024 12PM 29"
        );
        assert_eq!(show("%G-%V", 1_609_459_200, 0), "2020-53");
        assert_eq!(show("100%%", t, 0), "100%");
    }

    #[test]
    fn an_unknown_specifier_is_an_error() {
        assert!(TimeFormat::parse("%Q").is_err());
        assert!(TimeFormat::parse("%").is_err());
    }
}
