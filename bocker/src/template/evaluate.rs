//! Fills a template in. What it takes from the data is shown with control characters escaped; what the template itself says is
//! printed as it is. Loops and output are bounded: a few nested ranges could run for years.

use std::borrow::Cow;

use bocker_pipe::Result;
use serde_json::Value;

use super::failed;
use super::functions::Call;
use super::parse::{Node, Term};
use crate::table::visible;

/// The longest text that is made, in bytes.
const MAX_OUTPUT: usize = 32 << 20;
/// How often the bodies of all ranges together are filled in.
const MAX_LOOPS: usize = 1 << 18;
/// What Go prints for what is not there.
const NO_VALUE: &str = "<no value>";

/// A value: of the data, or made by the template, whose text is fit to be printed.
#[derive(Debug, Clone)]
pub(super) enum Item<'a> {
    Data(&'a Value),
    Made(Value),
}

const NULL: &Value = &Value::Null;

impl<'a> Item<'a> {
    pub(super) fn value(&self) -> &Value {
        match self {
            Item::Data(value) => value,
            Item::Made(value) => value,
        }
    }

    /// The member of this name; nothing if there is none.
    pub(super) fn member(&self, name: &str) -> Item<'a> {
        self.part(|value| value.get(name))
    }

    /// The item at this place; nothing if there is none.
    pub(super) fn item(&self, number: usize) -> Item<'a> {
        self.part(|value| value.get(number))
    }

    fn part(&self, of: impl Fn(&Value) -> Option<&Value>) -> Item<'a> {
        match self {
            Item::Data(value) => Item::Data(of(value).unwrap_or(NULL)),
            Item::Made(value) => Item::Made(of(value).cloned().unwrap_or_default()),
        }
    }
}

/// As Go's templates see it: false, 0, and what has no length.
pub(super) fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(truth) => !truth,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members.is_empty(),
    }
}

/// Text that is being made, of bounded length.
#[derive(Debug, Default)]
pub(super) struct Text(String);

impl Text {
    pub(super) fn push(&mut self, text: &str) -> Result<()> {
        if self.0.len() + text.len() > MAX_OUTPUT {
            return Err(failed(&format!("it makes more than {MAX_OUTPUT} bytes")));
        }
        self.0.push_str(text);
        Ok(())
    }

    /// As Go prints it: `[a b]`, `map[a:1 b:2]`.
    pub(super) fn show(&mut self, item: &Item<'_>) -> Result<()> {
        match item {
            Item::Made(Value::String(text)) => self.push(text),
            Item::Data(value) => self.show_value(value, &|text| visible(text).into()),
            Item::Made(value) => self.show_value(value, &|text| text.into()),
        }
    }

    fn show_value(&mut self, value: &Value, text: &dyn Fn(&str) -> Cow<'_, str>) -> Result<()> {
        match value {
            Value::Null => self.push(NO_VALUE),
            Value::String(inner) => self.push(&text(inner)),
            Value::Bool(_) | Value::Number(_) => self.push(&value.to_string()),
            Value::Array(items) => {
                self.push("[")?;
                for (number, item) in items.iter().enumerate() {
                    self.push(if number > 0 { " " } else { "" })?;
                    self.show_value(item, text)?;
                }
                self.push("]")
            }
            Value::Object(_) => {
                self.push("map[")?;
                for (number, (key, member)) in sorted(value).into_iter().enumerate() {
                    self.push(if number > 0 { " " } else { "" })?;
                    self.push(&visible(key))?;
                    self.push(":")?;
                    self.show_value(member, text)?;
                }
                self.push("]")
            }
        }
    }

    pub(super) fn into_string(self) -> String {
        self.0
    }
}

/// Members in the order of their names, as Go has them.
fn sorted(object: &Value) -> Vec<(&String, &Value)> {
    let members = object.as_object().into_iter().flatten();
    let mut members: Vec<_> = members.collect();
    members.sort_by_key(|(name, _)| *name);
    members
}

/// Fills in the nodes with what the data says.
pub(super) fn fill(nodes: &[Node], data: &Value) -> Result<String> {
    let mut filling = Filling {
        text: Text::default(),
        whole: data,
        variables: Vec::new(),
        loops: 0,
    };
    filling.nodes(nodes, &Item::Data(data))?;
    Ok(filling.text.into_string())
}

struct Filling<'a> {
    text: Text,
    /// `$`
    whole: &'a Value,
    variables: Vec<(&'a str, Item<'a>)>,
    loops: usize,
}

impl<'a> Filling<'a> {
    fn nodes(&mut self, nodes: &'a [Node], dot: &Item<'a>) -> Result<()> {
        let outer = self.variables.len();
        nodes.iter().try_for_each(|node| self.node(node, dot))?;
        self.variables.truncate(outer);
        Ok(())
    }

    fn node(&mut self, node: &'a Node, dot: &Item<'a>) -> Result<()> {
        match node {
            Node::Text(text) => self.text.push(text),
            Node::Show(term) => {
                let item = self.term(term, dot)?;
                self.text.show(&item)
            }
            Node::Set { name, to, is_new } => {
                let item = self.term(to, dot)?;
                let set = self.variables.iter_mut().rev();
                let set = set.filter(|_| !is_new).find(|(set, _)| set == name);
                match set {
                    Some((_, value)) => *value = item,
                    None => self.variables.push((name, item)),
                }
                Ok(())
            }
            Node::If {
                condition,
                binds,
                name,
                then,
                otherwise,
            } => {
                let item = self.term(condition, dot)?;
                let outer = self.variables.len();
                if let Some(name) = name {
                    self.variables.push((name, item.clone()));
                }
                if is_empty(item.value()) {
                    self.nodes(otherwise, dot)?;
                } else {
                    self.nodes(then, if *binds { &item } else { dot })?;
                }
                self.variables.truncate(outer);
                Ok(())
            }
            Node::Range {
                key,
                value,
                list,
                each,
                otherwise,
            } => {
                let list = self.term(list, dot)?;
                let items = items(&list)?;
                if items.is_empty() {
                    return self.nodes(otherwise, dot);
                }
                for (number, item) in items {
                    self.loops += 1;
                    if self.loops > MAX_LOOPS {
                        return Err(failed(&format!(
                            "its ranges go round over {MAX_LOOPS} times"
                        )));
                    }
                    let outer = self.variables.len();
                    let set = [(key, number), (value, item.clone())];
                    let set = set.into_iter();
                    self.variables
                        .extend(set.filter_map(|(name, item)| Some((name.as_deref()?, item))));
                    self.nodes(each, &item)?;
                    self.variables.truncate(outer);
                }
                Ok(())
            }
        }
    }

    fn term(&self, term: &'a Term, dot: &Item<'a>) -> Result<Item<'a>> {
        match term {
            Term::Dot => Ok(dot.clone()),
            Term::Literal(value) => Ok(Item::Made(value.clone())),
            Term::Variable(name) => {
                let set = self.variables.iter().rev().find(|(set, _)| set == name);
                Ok(set.map_or(Item::Data(self.whole), |(_, item)| item.clone()))
            }
            Term::Fields(of, names) => {
                let of = self.term(of, dot)?;
                Ok(names.iter().fold(of, |item, name| item.member(name)))
            }
            Term::Label(of) => Ok(self.term(of, dot)?.member("Labels")),
            Term::Call(function, arguments) => match &function.call {
                Call::All(call) => {
                    let arguments: Vec<Item<'a>> = arguments
                        .iter()
                        .map(|argument| self.term(argument, dot))
                        .collect::<Result<_>>()?;
                    call(&arguments)
                }
                Call::And => self.first(arguments, dot, true),
                Call::Or => self.first(arguments, dot, false),
            },
        }
    }

    /// The first that is empty, or is not, or else the last. Those after it are not asked.
    fn first(&self, terms: &'a [Term], dot: &Item<'a>, empty: bool) -> Result<Item<'a>> {
        let mut found = Item::Data(NULL);
        for term in terms {
            found = self.term(term, dot)?;
            if is_empty(found.value()) == empty {
                break;
            }
        }
        Ok(found)
    }
}

/// What a range goes over, with the places or names.
fn items<'a>(list: &Item<'a>) -> Result<Vec<(Item<'a>, Item<'a>)>> {
    match list.value() {
        Value::Null => Ok(Vec::new()),
        Value::Array(items) => Ok((0..items.len())
            .map(|number| (Item::Made(number.into()), list.item(number)))
            .collect()),
        object @ Value::Object(_) => Ok(sorted(object)
            .into_iter()
            .map(|(name, _)| (Item::Made(visible(name).into()), list.member(name)))
            .collect()),
        other => Err(failed(&format!("range cannot go over {other}"))),
    }
}
