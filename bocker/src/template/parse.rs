//! Reads the tokens of a template into a tree, of a depth that no stack minds.

use std::iter::Peekable;
use std::vec::IntoIter;

use bocker_pipe::Result;
use serde_json::Value;

use super::functions::{self, Function};
use super::lexer::{Lexeme, Piece, Token};
use super::wrong;

/// How deep blocks, brackets and pipes may stand in each other.
const MAX_DEPTH: usize = 32;

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    Text(String),
    /// `{{.a}}`
    Show(Term),
    /// `{{$v := .a}}`, and with `=` one that is there already.
    Set {
        name: String,
        to: Term,
        is_new: bool,
    },
    /// `{{if .a}}`, and `{{with .a}}`, in which `.` is what was asked for.
    If {
        condition: Term,
        binds: bool,
        name: Option<String>,
        then: Vec<Node>,
        otherwise: Vec<Node>,
    },
    /// `{{range $key, $value := .a}}`
    Range {
        key: Option<String>,
        value: Option<String>,
        list: Term,
        each: Vec<Node>,
        otherwise: Vec<Node>,
    },
}

/// What has a value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Term {
    Dot,
    Literal(Value),
    Variable(String),
    /// Members of members of something.
    Fields(Box<Term>, Vec<String>),
    /// `.Label "name"`, docker's one method of lists.
    Label(Box<Term>),
    Call(&'static Function, Vec<Term>),
}

/// What a block ended with.
enum Closing {
    End,
    Else,
    ElseIf(Peekable<IntoIter<Token>>),
}

/// Reads a whole template.
pub(super) fn parse(pieces: Vec<Piece>) -> Result<Vec<Node>> {
    let mut parser = Parser {
        pieces: pieces.into_iter(),
        variables: Vec::new(),
    };
    parser.nodes(None, 0).map(|(nodes, _)| nodes)
}

struct Parser {
    pieces: IntoIter<Piece>,
    /// Those that can be seen here.
    variables: Vec<String>,
}

type Tokens = Peekable<IntoIter<Token>>;

impl Parser {
    /// Those up to the end of the block, or of the template.
    fn nodes(&mut self, block: Option<&str>, depth: usize) -> Result<(Vec<Node>, Closing)> {
        check(depth)?;
        let outer = self.variables.len();
        let mut nodes = Vec::new();
        while let Some(piece) = self.pieces.next() {
            let tokens = match piece {
                Piece::Text(text) => {
                    nodes.push(Node::Text(text));
                    continue;
                }
                Piece::Action(tokens) => tokens,
            };
            let mut tokens = tokens.into_iter().peekable();
            match word(&mut tokens, &["if", "with", "range", "else", "end"]).as_deref() {
                Some("range") => nodes.push(self.range(tokens, depth)?),
                Some("end") => {
                    ended(&mut tokens)?;
                    if block.is_none() {
                        return Err(wrong("has {{end}} without {{if}}, {{with}} or {{range}}"));
                    }
                    self.variables.truncate(outer);
                    return Ok((nodes, Closing::End));
                }
                Some("else") => {
                    if block.is_none() {
                        return Err(wrong("has {{else}} without {{if}}, {{with}} or {{range}}"));
                    }
                    self.variables.truncate(outer);
                    let end = match word(&mut tokens, &["if"]) {
                        Some(_) => Closing::ElseIf(tokens),
                        None => ended(&mut tokens).map(|()| Closing::Else)?,
                    };
                    return Ok((nodes, end));
                }
                Some(name) => nodes.push(self.condition(tokens, name == "with", depth)?),
                None => nodes.push(self.action(tokens, depth)?),
            }
        }
        match block {
            None => Ok((nodes, Closing::End)),
            Some(block) => Err(wrong(&format!("has {{{{{block}}}}} without {{{{end}}}}"))),
        }
    }

    /// `$v := pipeline`, `$v = pipeline`, or a pipeline that is shown.
    fn action(&mut self, mut tokens: Tokens, depth: usize) -> Result<Node> {
        let (names, is_new) = declared(&mut tokens)?;
        let term = self.pipeline(&mut tokens, depth)?;
        ended(&mut tokens)?;
        match names.as_slice() {
            [] => Ok(Node::Show(term)),
            [name] => {
                match is_new {
                    true => self.variables.push(name.clone()),
                    false => self.known(name)?,
                }
                Ok(Node::Set {
                    name: name.clone(),
                    to: term,
                    is_new,
                })
            }
            _ => Err(wrong("sets two variables at once, which only range does")),
        }
    }

    fn condition(&mut self, mut tokens: Tokens, binds: bool, depth: usize) -> Result<Node> {
        let block = if binds { "with" } else { "if" };
        let (mut names, is_new) = declared(&mut tokens)?;
        if names.len() > 1 || (!names.is_empty() && !is_new) {
            return Err(wrong(&format!("sets what {block} cannot set")));
        }
        let condition = self.pipeline(&mut tokens, depth)?;
        ended(&mut tokens)?;
        let outer = self.variables.len();
        self.variables.extend(names.iter().cloned());
        let (then, end) = self.nodes(Some(block), depth + 1)?;
        let otherwise = self.otherwise(end, block, depth)?;
        self.variables.truncate(outer);
        Ok(Node::If {
            condition,
            binds,
            name: names.pop(),
            then,
            otherwise,
        })
    }

    fn range(&mut self, mut tokens: Tokens, depth: usize) -> Result<Node> {
        let (mut names, is_new) = declared(&mut tokens)?;
        if !names.is_empty() && !is_new {
            return Err(wrong("sets with = what range sets with :="));
        }
        let list = self.pipeline(&mut tokens, depth)?;
        ended(&mut tokens)?;
        let outer = self.variables.len();
        self.variables.extend(names.iter().cloned());
        let (each, end) = self.nodes(Some("range"), depth + 1)?;
        self.variables.truncate(outer);
        let otherwise = self.otherwise(end, "range", depth)?;
        let value = names.pop();
        Ok(Node::Range {
            key: names.pop(),
            value,
            list,
            each,
            otherwise,
        })
    }

    fn otherwise(&mut self, end: Closing, block: &str, depth: usize) -> Result<Vec<Node>> {
        match end {
            Closing::End => Ok(Vec::new()),
            Closing::ElseIf(tokens) if block == "if" => {
                Ok(vec![self.condition(tokens, false, depth + 1)?])
            }
            Closing::ElseIf(_) => Err(wrong(&format!("has {{{{else if}}}} in {block}"))),
            Closing::Else => match self.nodes(Some(block), depth + 1)? {
                (nodes, Closing::End) => Ok(nodes),
                _ => Err(wrong("has {{else}} after {{else}}")),
            },
        }
    }

    /// `.a | f x`: what stands before a pipe is the last argument of what stands after it.
    fn pipeline(&mut self, tokens: &mut Tokens, depth: usize) -> Result<Term> {
        let mut term = self.command(tokens, None, depth)?;
        let mut depth = depth;
        while sign(tokens, '|') {
            depth += 1;
            term = self.command(tokens, Some(term), depth)?;
        }
        Ok(term)
    }

    fn command(&mut self, tokens: &mut Tokens, last: Option<Term>, depth: usize) -> Result<Term> {
        check(depth)?;
        let Some(first) = tokens.peek() else {
            return Err(wrong("has an action without anything in it"));
        };
        if let Lexeme::Word(name) = &first.is {
            let function = functions::find(name)?;
            tokens.next();
            let mut arguments = self.arguments(tokens, depth)?;
            arguments.extend(last);
            function.check(arguments.len())?;
            return Ok(Term::Call(function, arguments));
        }
        let term = self.operand(tokens, depth)?;
        let mut arguments = self.arguments(tokens, depth)?;
        arguments.extend(last);
        match (term, arguments.as_slice()) {
            (term, []) => Ok(term),
            (Term::Fields(of, mut names), [_])
                if names.last().is_some_and(|name| name == "Label") =>
            {
                names.pop();
                let labels = match names.is_empty() {
                    true => Term::Label(of),
                    false => Term::Label(Box::new(Term::Fields(of, names))),
                };
                arguments.insert(0, labels);
                Ok(Term::Call(functions::find("index")?, arguments))
            }
            _ => Err(wrong("gives arguments to what is no function")),
        }
    }

    fn arguments(&mut self, tokens: &mut Tokens, depth: usize) -> Result<Vec<Term>> {
        let mut arguments = Vec::new();
        loop {
            match tokens.peek().map(|token| &token.is) {
                None | Some(Lexeme::Sign('|' | ')')) => return Ok(arguments),
                Some(_) => arguments.push(self.operand(tokens, depth)?),
            }
        }
    }

    fn operand(&mut self, tokens: &mut Tokens, depth: usize) -> Result<Term> {
        let term = match tokens.next().map(|token| token.is) {
            Some(Lexeme::Dot) => Term::Dot,
            Some(Lexeme::Fields(names)) => Term::Fields(Box::new(Term::Dot), names),
            Some(Lexeme::Literal(value)) => Term::Literal(value),
            Some(Lexeme::Variable(name)) => {
                self.known(&name)?;
                Term::Variable(name)
            }
            // A function without arguments.
            Some(Lexeme::Word(name)) => {
                let function = functions::find(&name)?;
                function.check(0)?;
                Term::Call(function, Vec::new())
            }
            Some(Lexeme::Sign('(')) => {
                let term = self.pipeline(tokens, depth + 1)?;
                if !sign(tokens, ')') {
                    return Err(wrong("has ( without )"));
                }
                term
            }
            other => return Err(unexpected(other.as_ref())),
        };
        let glued = |token: &Token| token.glued && matches!(token.is, Lexeme::Fields(_));
        match tokens.next_if(glued).map(|token| token.is) {
            Some(Lexeme::Fields(names)) => Ok(Term::Fields(Box::new(term), names)),
            _ => Ok(term),
        }
    }

    fn known(&self, name: &String) -> Result<()> {
        match name.is_empty() || self.variables.contains(name) {
            true => Ok(()),
            false => Err(wrong(&format!("uses ${name}, which nothing sets"))),
        }
    }
}

/// The variables that an action sets, and whether they are new.
fn declared(tokens: &mut Tokens) -> Result<(Vec<String>, bool)> {
    let mut ahead = tokens.clone();
    let mut names = Vec::new();
    while let Some(Lexeme::Variable(name)) = ahead.peek().map(|token| &token.is) {
        names.push(name.clone());
        ahead.next();
        if !(names.len() == 1 && sign(&mut ahead, ',')) {
            break;
        }
    }
    let is_new = match ahead.next().map(|token| token.is) {
        Some(Lexeme::Declare) => true,
        Some(Lexeme::Assign) => false,
        _ => return Ok((Vec::new(), false)),
    };
    if names.iter().any(String::is_empty) {
        return Err(wrong("sets $, which is always the whole"));
    }
    *tokens = ahead;
    Ok((names, is_new))
}

fn check(depth: usize) -> Result<()> {
    match depth {
        ..=MAX_DEPTH => Ok(()),
        _ => Err(wrong("is nested too deeply")),
    }
}

fn word(tokens: &mut Tokens, words: &[&str]) -> Option<String> {
    let is_one =
        |token: &Token| matches!(&token.is, Lexeme::Word(word) if words.contains(&word.as_str()));
    match tokens.next_if(is_one)?.is {
        Lexeme::Word(word) => Some(word),
        _ => None,
    }
}

fn sign(tokens: &mut Tokens, sign: char) -> bool {
    tokens
        .next_if(|token| token.is == Lexeme::Sign(sign))
        .is_some()
}

fn ended(tokens: &mut Tokens) -> Result<()> {
    match tokens.next() {
        None => Ok(()),
        Some(token) => Err(unexpected(Some(&token.is))),
    }
}

fn unexpected(found: Option<&Lexeme>) -> bocker_pipe::Error {
    let found = match found {
        None => return wrong("has an action that ends too early"),
        Some(Lexeme::Dot) => ".".to_owned(),
        Some(Lexeme::Fields(names)) => format!(".{}", names.join(".")),
        Some(Lexeme::Variable(name)) => format!("${name}"),
        Some(Lexeme::Word(word)) => word.clone(),
        Some(Lexeme::Literal(value)) => value.to_string(),
        Some(Lexeme::Sign(sign)) => sign.to_string(),
        Some(Lexeme::Declare) => ":=".to_owned(),
        Some(Lexeme::Assign) => "=".to_owned(),
    };
    wrong(&format!("has '{found}' where no such thing can be"))
}
