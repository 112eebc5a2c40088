//! The functions of templates: Go's, and those that docker adds.

use std::cmp::Ordering;
use std::ops::RangeInclusive;

use bocker_pipe::{Error, Kind, Result};
use serde_json::Value;

use super::evaluate::{Item, Text, is_empty};
use super::{failed, wrong};
use crate::table::visible;

/// How wide a field of printf may be.
const MAX_WIDTH: usize = 1000;

/// A function, and how many arguments it takes.
#[derive(Debug)]
pub(super) struct Function {
    pub(super) name: &'static str,
    count: RangeInclusive<usize>,
    pub(super) call: Call,
}

/// How a function is evaluated.
#[derive(Debug)]
pub(super) enum Call {
    /// With all its arguments.
    All(for<'a> fn(&[Item<'a>]) -> Result<Item<'a>>),
    /// The first argument that is empty, or the last.
    And,
    /// The first argument that is not empty, or the last.
    Or,
}

// They are told apart by their names alone.
impl PartialEq for Function {
    fn eq(&self, other: &Function) -> bool {
        self.name == other.name
    }
}

const ANY: usize = usize::MAX;

const FUNCTIONS: &[Function] = &[
    function("and", 1..=ANY, Call::And),
    function("eq", 2..=ANY, Call::All(eq)),
    function("ge", 2..=2, Call::All(|a| order(a, Ordering::is_ge))),
    function("gt", 2..=2, Call::All(|a| order(a, Ordering::is_gt))),
    function("index", 1..=ANY, Call::All(index)),
    function("join", 2..=2, Call::All(join)),
    function("json", 1..=1, Call::All(json)),
    function("le", 2..=2, Call::All(|a| order(a, Ordering::is_le))),
    function("len", 1..=1, Call::All(len)),
    function("lower", 1..=1, Call::All(|a| change(a, str::to_lowercase))),
    function("lt", 2..=2, Call::All(|a| order(a, Ordering::is_lt))),
    function("ne", 2..=2, Call::All(ne)),
    function(
        "not",
        1..=1,
        Call::All(|a| Ok(made(is_empty(a[0].value())))),
    ),
    function("or", 1..=ANY, Call::Or),
    function("print", 0..=ANY, Call::All(|a| spaced(a, ""))),
    function("printf", 1..=ANY, Call::All(printf)),
    function("println", 0..=ANY, Call::All(|a| spaced(a, "\n"))),
    function("split", 2..=2, Call::All(split)),
    function("title", 1..=1, Call::All(|a| change(a, title))),
    function("truncate", 2..=2, Call::All(truncate)),
    function("upper", 1..=1, Call::All(|a| change(a, str::to_uppercase))),
];

const fn function(name: &'static str, count: RangeInclusive<usize>, call: Call) -> Function {
    Function { name, count, call }
}

/// The function of this name. Fails with [`Kind::Usage`], naming those that there are.
pub(super) fn find(name: &str) -> Result<&'static Function> {
    FUNCTIONS
        .iter()
        .find(|function| function.name == name)
        .ok_or_else(|| {
            let names: Vec<&str> = FUNCTIONS.iter().map(|function| function.name).collect();
            wrong(&format!("uses '{name}', which is no function")).hint(format!(
                "a field is .{name}; the functions are {}",
                names.join(", ")
            ))
        })
}

impl Function {
    pub(super) fn check(&self, count: usize) -> Result<()> {
        match self.count.contains(&count) {
            true => Ok(()),
            false => Err(wrong(&format!(
                "gives {} {count} arguments, and it takes {}",
                self.name,
                match (*self.count.start(), *self.count.end()) {
                    (least, ANY) => format!("{least} or more"),
                    (least, _) => least.to_string(),
                }
            ))),
        }
    }
}

fn made<'a>(value: impl Into<Value>) -> Item<'a> {
    Item::Made(value.into())
}

fn text(item: &Item<'_>) -> Result<String> {
    let mut text = Text::default();
    text.show(item)?;
    Ok(text.into_string())
}

/// A string as it stands.
fn string<'a>(name: &str, item: &'a Item<'_>) -> Result<&'a str> {
    item.value()
        .as_str()
        .ok_or_else(|| failed(&format!("{name} takes a string, and not {}", item.value())))
}

fn index<'a>(arguments: &[Item<'a>]) -> Result<Item<'a>> {
    let (first, keys) = arguments.split_first().ok_or_else(|| failed("index"))?;
    keys.iter().try_fold(first.clone(), |item, key| {
        match (item.value(), key.value()) {
            (Value::Object(_), Value::String(name)) => Ok(item.member(name)),
            (Value::Array(items), Value::Number(number)) => number
                .as_u64()
                .and_then(|number| usize::try_from(number).ok())
                .filter(|number| *number < items.len())
                .map(|number| item.item(number))
                .ok_or_else(|| failed(&format!("there is no item {number} of {}", items.len()))),
            (of, key) => Err(failed(&format!(
                "index finds nothing by {key} in {}",
                short(of)
            ))),
        }
    })
}

/// What a message has room for.
fn short(value: &Value) -> String {
    match value {
        Value::Array(_) => "a list".into(),
        Value::Object(_) => "an object".into(),
        Value::Null => "no value".into(),
        other => other.to_string(),
    }
}

fn json<'a>(arguments: &[Item<'a>]) -> Result<Item<'a>> {
    let json = arguments[0].value().to_string();
    if !json.chars().any(char::is_control) {
        return Ok(made(json));
    }
    // Those above ASCII drive a terminal as well, and JSON leaves them as they are.
    let mut safe = String::with_capacity(json.len());
    for c in json.chars() {
        match c.is_control() {
            true => safe.push_str(&format!("\\u{:04x}", u32::from(c))),
            false => safe.push(c),
        }
    }
    Ok(made(safe))
}

fn len<'a>(arguments: &[Item<'a>]) -> Result<Item<'a>> {
    match arguments[0].value() {
        Value::String(text) => Ok(made(text.len())),
        Value::Array(items) => Ok(made(items.len())),
        Value::Object(members) => Ok(made(members.len())),
        other => Err(failed(&format!("{} has no length", short(other)))),
    }
}

fn join<'a>(arguments: &[Item<'a>]) -> Result<Item<'a>> {
    let Value::Array(items) = arguments[0].value() else {
        let what = short(arguments[0].value());
        return Err(failed(&format!("join takes a list, and not {what}")));
    };
    let between = string("join", &arguments[1])?;
    let mut text = Text::default();
    for number in 0..items.len() {
        if number > 0 {
            text.push(between)?;
        }
        text.show(&arguments[0].item(number))?;
    }
    Ok(made(text.into_string()))
}

fn split<'a>(arguments: &[Item<'a>]) -> Result<Item<'a>> {
    let (of, at) = (
        string("split", &arguments[0])?,
        string("split", &arguments[1])?,
    );
    let parts: Vec<String> = of.split(at).map(visible).collect();
    Ok(made(parts))
}

fn truncate<'a>(arguments: &[Item<'a>]) -> Result<Item<'a>> {
    let count = arguments[1].value().as_u64();
    let count = count.ok_or_else(|| failed("truncate takes a text and a length"))?;
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    let cut: String = text(&arguments[0])?.chars().take(count).collect();
    Ok(made(cut))
}

fn change<'a>(arguments: &[Item<'a>], how: impl Fn(&str) -> String) -> Result<Item<'a>> {
    Ok(made(how(&text(&arguments[0])?)))
}

fn title(text: &str) -> String {
    let mut begins = true;
    text.chars()
        .flat_map(|c| {
            let upper = begins.then(|| c.to_uppercase());
            begins = !c.is_alphanumeric();
            let same = upper.is_none().then_some(c);
            upper.into_iter().flatten().chain(same)
        })
        .collect()
}

fn eq<'a>(arguments: &[Item<'a>]) -> Result<Item<'a>> {
    let (first, others) = arguments.split_first().ok_or_else(|| failed("eq"))?;
    let equal = others
        .iter()
        .any(|other| is_equal(first.value(), other.value()));
    Ok(made(equal))
}

fn ne<'a>(arguments: &[Item<'a>]) -> Result<Item<'a>> {
    Ok(made(!is_equal(arguments[0].value(), arguments[1].value())))
}

fn is_equal(a: &Value, b: &Value) -> bool {
    match (a, b) {
        // As numbers, however they are written.
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        (a, b) => a == b,
    }
}

fn order<'a>(arguments: &[Item<'a>], holds: impl Fn(Ordering) -> bool) -> Result<Item<'a>> {
    let order = match (arguments[0].value(), arguments[1].value()) {
        (Value::Number(a), Value::Number(b)) => match (a.as_i128(), b.as_i128()) {
            (Some(a), Some(b)) => Some(a.cmp(&b)),
            _ => a.as_f64().partial_cmp(&b.as_f64()),
        },
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        _ => None,
    };
    match order {
        Some(order) => Ok(made(holds(order))),
        None => Err(failed(&format!(
            "{} and {} cannot be compared",
            short(arguments[0].value()),
            short(arguments[1].value())
        ))),
    }
}

fn spaced<'a>(arguments: &[Item<'a>], end: &str) -> Result<Item<'a>> {
    let mut text = Text::default();
    for (number, argument) in arguments.iter().enumerate() {
        let is_text = |item: &Item<'_>| item.value().is_string();
        // Go's print leaves strings together.
        let together =
            end.is_empty() && (is_text(argument) || number > 0 && is_text(&arguments[number - 1]));
        if number > 0 && !together {
            text.push(" ")?;
        }
        text.show(argument)?;
    }
    text.push(end)?;
    Ok(made(text.into_string()))
}

/// `%s`, `%v`, `%d`, `%q`, `%t` with `-`, `0`, a width and a precision.
fn printf<'a>(arguments: &[Item<'a>]) -> Result<Item<'a>> {
    let (format, rest) = arguments.split_first().ok_or_else(|| failed("printf"))?;
    let mut given = rest.iter();
    let mut text = Text::default();
    let mut format = string("printf", format)?;
    while let Some((before, after)) = format.split_once('%') {
        text.push(before)?;
        let (spec, after) = Spec::read(after)?;
        format = after;
        if spec.verb == '%' {
            text.push("%")?;
            continue;
        }
        let item = given
            .next()
            .ok_or_else(|| failed("printf has fewer arguments than its format asks for"))?;
        text.push(&spec.fill(item)?)?;
    }
    text.push(format)?;
    match given.next() {
        None => Ok(made(text.into_string())),
        Some(_) => Err(failed("printf has more arguments than its format asks for")),
    }
}

struct Spec {
    left: bool,
    zeros: bool,
    width: usize,
    precision: Option<usize>,
    verb: char,
}

impl Spec {
    fn read(text: &str) -> Result<(Spec, &str)> {
        let flags = text.trim_start_matches(['-', '0']);
        let (given, rest) = text.split_at(text.len() - flags.len());
        let (width, rest) = number(rest)?;
        let (precision, rest) = match rest.strip_prefix('.') {
            Some(rest) => number(rest).map(|(number, rest)| (Some(number.unwrap_or(0)), rest))?,
            None => (None, rest),
        };
        let mut rest = rest.chars();
        let verb = rest.next().unwrap_or_default();
        if !"svdqt%".contains(verb) {
            return Err(
                failed(&format!("printf does not know %{verb}")).hint("use %s, %v, %d, %q or %t")
            );
        }
        let spec = Spec {
            left: given.contains('-'),
            zeros: given.contains('0'),
            width: width.unwrap_or(0),
            precision,
            verb,
        };
        Ok((spec, rest.as_str()))
    }

    fn fill(&self, item: &Item<'_>) -> Result<String> {
        let value = item.value();
        let fits = match self.verb {
            'd' => value.is_number(),
            't' => value.is_boolean(),
            _ => true,
        };
        if !fits {
            return Err(failed(&format!("{value} is nothing for %{}", self.verb)));
        }
        let mut shown = text(item)?;
        if let Some(precision) = self.precision {
            shown = shown.chars().take(precision).collect();
        }
        if self.verb == 'q' {
            shown = Value::from(shown).to_string();
        }
        let missing = self.width.saturating_sub(shown.chars().count());
        Ok(match (self.left, self.zeros && self.verb == 'd') {
            (true, _) => shown + &" ".repeat(missing),
            (false, true) => match shown.strip_prefix('-') {
                Some(digits) => format!("-{}{digits}", "0".repeat(missing)),
                None => "0".repeat(missing) + &shown,
            },
            (false, false) => " ".repeat(missing) + &shown,
        })
    }
}

fn number(text: &str) -> Result<(Option<usize>, &str)> {
    let rest = text.trim_start_matches(|c: char| c.is_ascii_digit());
    let digits = &text[..text.len() - rest.len()];
    if digits.is_empty() {
        return Ok((None, rest));
    }
    match digits.parse() {
        Ok(number) if number <= MAX_WIDTH => Ok((Some(number), rest)),
        _ => Err(Error::new(
            Kind::Invalid,
            format!("printf makes no field of {digits} characters"),
        )),
    }
}
