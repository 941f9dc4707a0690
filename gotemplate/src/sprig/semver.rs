//! Semantic versions and constraints on them, as `Masterminds/semver` 3 reads them.

use std::cmp::Ordering;
use std::rc::Rc;
use std::sync::LazyLock;

use regex::Regex;

use super::utf8;
use crate::exec::Meter;
use crate::functions::Answer;
use crate::value::Value;

/// A version; missing parts are 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    pub(crate) major: u64,
    pub(crate) minor: u64,
    pub(crate) patch: u64,
    pub(crate) pre: String,
    pub(crate) metadata: String,
    pub(crate) original: String,
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)?;
        if !self.pre.is_empty() {
            write!(f, "-{}", self.pre)?;
        }
        if !self.metadata.is_empty() {
            write!(f, "+{}", self.metadata)?;
        }
        Ok(())
    }
}

const PRERELEASE: &str = r"(-([0-9A-Za-z\-]+(\.[0-9A-Za-z\-]+)*))?(\+([0-9A-Za-z\-]+(\.[0-9A-Za-z\-]+)*))?";
const OPERATORS: &str = r"=||!=|>|<|>=|=>|<=|=<|~|~>|\^";

fn regex(pattern: &str) -> Regex {
    Regex::new(pattern).unwrap_or_else(|_| unreachable!())
}

fn constraint_version() -> String {
    format!(r"v?([0-9|x|X|\*]+)(\.[0-9|x|X|\*]+)?(\.[0-9|x|X|\*]+)?{PRERELEASE}")
}

static VERSION: LazyLock<Regex> = LazyLock::new(|| regex(&format!(r"^v?([0-9]+)(\.[0-9]+)?(\.[0-9]+)?{PRERELEASE}$")));
static ONE: LazyLock<Regex> = LazyLock::new(|| regex(&format!(r"^\s*({OPERATORS})\s*({})\s*$", constraint_version())));
static RANGE: LazyLock<Regex> = LazyLock::new(|| regex(&format!(r"\s*({0})\s+-\s+({0})\s*", constraint_version())));
static EACH: LazyLock<Regex> = LazyLock::new(|| regex(&format!(r"({OPERATORS})\s*({})", constraint_version())));
static ALL: LazyLock<Regex> = LazyLock::new(|| {
    let version = constraint_version();
    regex(&format!(r"^(\s*({OPERATORS})\s*({version})\s*)((?:\s+|,\s*)({OPERATORS})\s*({version})\s*)*$"))
});

fn has_leading_zero(part: &str) -> bool {
    part.len() > 1 && part.starts_with('0') && part.bytes().all(|byte| byte.is_ascii_digit())
}

impl Version {
    fn parse(text: &str) -> Result<Self, String> {
        let groups = VERSION.captures(text).ok_or("invalid semantic version")?;
        let group = |i: usize| groups.get(i).map_or("", |group| group.as_str());
        let number = |i: usize| match group(i).trim_start_matches('.') {
            "" => Ok(0),
            digits => digits.parse().map_err(|_| "a part of the version is too large".to_owned()),
        };
        let version = Self {
            major: number(1)?,
            minor: number(2)?,
            patch: number(3)?,
            pre: group(5).to_owned(),
            metadata: group(8).to_owned(),
            original: text.to_owned(),
        };
        if version.pre.split('.').any(has_leading_zero) {
            return Err("a part of the pre-release starts with 0".into());
        }
        Ok(version)
    }

    fn order(&self, other: &Self) -> Ordering {
        let numbers = |version: &Self| (version.major, version.minor, version.patch);
        numbers(self).cmp(&numbers(other)).then_with(|| match (self.pre.is_empty(), other.pre.is_empty()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            (false, false) => prerelease_order(&self.pre, &other.pre),
        })
    }
}

fn prerelease_order(a: &str, b: &str) -> Ordering {
    let (a, b): (Vec<&str>, Vec<&str>) = (a.split('.').collect(), b.split('.').collect());
    let parts = (0..a.len().max(b.len())).map(|i| (a.get(i).copied().unwrap_or(""), b.get(i).copied().unwrap_or("")));
    parts.map(|(a, b)| part_order(a, b)).find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
}

fn part_order(a: &str, b: &str) -> Ordering {
    if a == b {
        return Ordering::Equal;
    }
    match (a.is_empty(), b.is_empty()) {
        (true, _) => return Ordering::Less,
        (_, true) => return Ordering::Greater,
        _ => {}
    }
    match (a.parse::<u64>(), b.parse::<u64>()) {
        (Err(_), Err(_)) => a.cmp(b),
        (_, Err(_)) => Ordering::Less,
        (Err(_), _) => Ordering::Greater,
        (Ok(a), Ok(b)) => {
            if a > b {
                Ordering::Greater
            } else {
                Ordering::Less
            }
        }
    }
}

/// One condition; a part that is missing or an `x` leaves those behind it open.
struct Constraint {
    operator: String,
    version: Version,
    is_open: bool,
    minor_open: bool,
    patch_open: bool,
}

impl Constraint {
    fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            let version = Version::parse("0.0.0")?;
            return Ok(Self { operator: String::new(), version, is_open: true, minor_open: false, patch_open: false });
        }
        let groups = ONE.captures(text).ok_or("improper constraint")?;
        let group = |i: usize| groups.get(i).map_or("", |group| group.as_str());
        let open = |i: usize| matches!(group(i).trim_start_matches('.'), "" | "x" | "X" | "*");
        let pre = group(6);
        let (mut minor_open, mut patch_open) = (false, false);
        let (written, is_open) = if open(3) {
            (format!("0.0.0{pre}"), true)
        } else if open(4) {
            minor_open = true;
            (format!("{}.0.0{pre}", group(3)), true)
        } else if open(5) {
            patch_open = true;
            (format!("{}{}.0{pre}", group(3), group(4)), true)
        } else {
            (group(2).to_owned(), false)
        };
        let version = Version::parse(&written).map_err(|_| "constraint parser error".to_owned())?;
        Ok(Self { operator: group(1).to_owned(), version, is_open, minor_open, patch_open })
    }

    fn admits(&self, version: &Version) -> bool {
        let wanted = &self.version;
        let order = version.order(wanted);
        let only_releases = !version.pre.is_empty() && wanted.pre.is_empty();
        match self.operator.as_str() {
            "!=" => self.differs(version, only_releases),
            _ if only_releases => false,
            ">" if !self.is_open => order.is_gt(),
            ">" => match version.major.cmp(&wanted.major) {
                Ordering::Greater => true,
                Ordering::Less => false,
                Ordering::Equal if self.minor_open => false,
                Ordering::Equal if self.patch_open => version.minor > wanted.minor,
                Ordering::Equal => order.is_gt(),
            },
            "<" => order.is_lt(),
            ">=" | "=>" => order.is_ge(),
            "<=" | "=<" if !self.is_open => order.is_le(),
            "<=" | "=<" => {
                let above = version.major == wanted.major && version.minor > wanted.minor && !self.minor_open;
                version.major <= wanted.major && !above
            }
            "~" | "~>" => self.about(version),
            "^" => self.compatible(version),
            _ if self.is_open => self.about(version),
            _ => order.is_eq(),
        }
    }

    fn differs(&self, version: &Version, only_releases: bool) -> bool {
        let wanted = &self.version;
        if self.is_open {
            if only_releases {
                return false;
            }
            if wanted.major != version.major || (wanted.minor != version.minor && !self.minor_open) {
                return true;
            }
            if self.minor_open {
                return false;
            }
            if wanted.patch != version.patch && !self.patch_open {
                return true;
            }
            if self.patch_open {
                let some = !version.pre.is_empty() || !wanted.pre.is_empty();
                return some && prerelease_order(&version.pre, &wanted.pre).is_ne();
            }
        }
        version.order(wanted).is_ne()
    }

    fn about(&self, version: &Version) -> bool {
        let wanted = &self.version;
        if version.order(wanted).is_lt() {
            return false;
        }
        let is_zero = (wanted.major, wanted.minor, wanted.patch) == (0, 0, 0);
        if is_zero && !self.minor_open && !self.patch_open {
            return true;
        }
        version.major == wanted.major && (version.minor == wanted.minor || self.minor_open)
    }

    fn compatible(&self, version: &Version) -> bool {
        let wanted = &self.version;
        if version.order(wanted).is_lt() {
            return false;
        }
        if wanted.major > 0 || self.minor_open {
            return version.major == wanted.major;
        }
        if version.major > 0 {
            return false;
        }
        if wanted.minor > 0 || self.patch_open {
            return version.minor == wanted.minor;
        }
        version.minor == 0 && version.patch == wanted.patch
    }
}

/// `1.2 - 2.3` as `>= 1.2, <= 2.3`.
fn without_ranges(text: &str) -> String {
    let mut out = text.to_owned();
    for groups in RANGE.captures_iter(text) {
        let group = |i: usize| groups.get(i).map_or("", |group| group.as_str());
        out = out.replacen(group(0), &format!(">= {}, <= {} ", group(1), group(11)), 1);
    }
    out
}

fn satisfies(constraints: &str, version: &Version) -> Result<bool, String> {
    let mut any = false;
    for alternative in without_ranges(constraints).split("||") {
        if !ALL.is_match(alternative) {
            return Err("improper constraint".into());
        }
        let mut parts: Vec<&str> = EACH.find_iter(alternative).map(|found| found.as_str()).collect();
        if parts.is_empty() {
            parts.push(alternative);
        }
        let parts: Result<Vec<_>, _> = parts.into_iter().map(Constraint::parse).collect();
        any |= parts?.iter().all(|constraint| constraint.admits(version));
    }
    Ok(any)
}

/// Longest version or constraint in bytes.
const LONGEST: usize = 1024;

fn short(text: &Value) -> Result<(), String> {
    match super::text(text).len() > LONGEST {
        true => Err(format!("a version or constraint is longer than {LONGEST} bytes")),
        false => Ok(()),
    }
}

pub(super) fn semver(meter: &mut Meter, arguments: &[Value]) -> Answer {
    short(&arguments[0])?;
    meter.memory(4 * super::text(&arguments[0]).len() + 200)?;
    Ok(Value::Version(Rc::new(Version::parse(&utf8(&arguments[0]))?)))
}

pub(super) fn semver_compare(meter: &mut Meter, arguments: &[Value]) -> Answer {
    short(&arguments[0])?;
    short(&arguments[1])?;
    let constraints = utf8(&arguments[0]);
    meter.steps(100 + constraints.len())?;
    meter.memory(40 * constraints.len())?;
    // Constraints are read first, so that an error of theirs is the one that is told.
    let checked = satisfies(&constraints, &Version::parse("0.0.0")?);
    checked.and_then(|_| satisfies(&constraints, &Version::parse(&utf8(&arguments[1]))?)).map(Value::Bool)
}

/// What can be asked of a version: `.Major` and its like.
pub(crate) fn method(version: &Version, name: &str, arguments: &[Value]) -> Option<Value> {
    let order = || match arguments {
        [Value::Version(other)] => Some(version.order(other)),
        _ => None,
    };
    let next = |version: Version| {
        let prefix = if version.original.starts_with('v') { "v" } else { "" };
        let mut next = Version { pre: String::new(), metadata: String::new(), ..version };
        next.original = format!("{prefix}{next}");
        Value::Version(Rc::new(next))
    };
    Some(match name {
        "Major" => Value::Uint(version.major, Some(64)),
        "Minor" => Value::Uint(version.minor, Some(64)),
        "Patch" => Value::Uint(version.patch, Some(64)),
        "Prerelease" => Value::from(version.pre.as_str()),
        "Metadata" => Value::from(version.metadata.as_str()),
        "Original" => Value::from(version.original.as_str()),
        "String" => Value::from(version.to_string().as_str()),
        "Compare" => Value::Int(order()? as i64, None),
        "LessThan" => Value::Bool(order()?.is_lt()),
        "GreaterThan" => Value::Bool(order()?.is_gt()),
        "Equal" => Value::Bool(order()?.is_eq()),
        "IncPatch" if version.pre.is_empty() => next(Version { patch: version.patch.wrapping_add(1), ..version.clone() }),
        "IncPatch" => next(version.clone()),
        "IncMinor" => next(Version { minor: version.minor.wrapping_add(1), patch: 0, ..version.clone() }),
        "IncMajor" => next(Version { major: version.major.wrapping_add(1), minor: 0, patch: 0, ..version.clone() }),
        _ => return None,
    })
}
