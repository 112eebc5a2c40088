//! Cuts a template into text and the tokens of its actions.

use std::iter::Peekable;
use std::str::Chars;

use bocker_pipe::Result;
use serde_json::{Number, Value};

use super::wrong;

const OPEN: &str = "{{";
const CLOSE: &str = "}}";
const COMMENT: &str = "/*";
const COMMENT_END: &str = "*/";

/// A stretch of a template.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Piece {
    Text(String),
    Action(Vec<Token>),
}

/// A token, and whether it follows the one before without a space: `$v.Name` is one thing, `$v .Name` are two.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Token {
    pub(super) is: Lexeme,
    pub(super) glued: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Lexeme {
    /// `.`
    Dot,
    /// `.a.b`
    Fields(Vec<String>),
    /// `$v`, and `$`, whose name is empty.
    Variable(String),
    Word(String),
    Literal(Value),
    /// `|`, `(`, `)`, `,`
    Sign(char),
    /// `:=`
    Declare,
    /// `=`
    Assign,
}

/// Cuts the whole template. White space beside `{{- ` and ` -}}` goes.
pub(super) fn cut(template: &str) -> Result<Vec<Piece>> {
    let mut pieces = Vec::new();
    let mut rest = template;
    let mut trims = false;
    loop {
        let (text, action) = match rest.split_once(OPEN) {
            Some((text, action)) => (text, Some(action)),
            None => (rest, None),
        };
        let trims_before = action.and_then(|action| {
            let inner = action.strip_prefix('-')?;
            inner.starts_with(char::is_whitespace).then_some(inner)
        });
        let text = if trims { text.trim_start() } else { text };
        let text = match trims_before {
            Some(_) => text.trim_end(),
            None => text,
        };
        if !text.is_empty() {
            // docker takes these two outside of actions, where Go does not.
            let text = text.replace("\\t", "\t").replace("\\n", "\n");
            pieces.push(Piece::Text(text));
        }
        let Some(action) = trims_before.or(action) else {
            return Ok(pieces);
        };
        let (inner, after) = match action.trim_start().strip_prefix(COMMENT) {
            Some(comment) => comment_end(comment)?,
            None => {
                let mut lexer = Lexer::new(action);
                let tokens = lexer.action()?;
                (Some((tokens, lexer.trims)), &action[lexer.position()..])
            }
        };
        trims = match inner {
            Some((tokens, trims)) => {
                pieces.push(Piece::Action(tokens));
                trims
            }
            None => after.starts_with("-}}"),
        };
        rest = match after.strip_prefix('-').unwrap_or(after).strip_prefix(CLOSE) {
            Some(rest) => rest,
            None => return Err(unclosed()),
        };
    }
}

type Inner = Option<(Vec<Token>, bool)>;

fn comment_end(comment: &str) -> Result<(Inner, &str)> {
    match comment.split_once(COMMENT_END) {
        Some((_, after)) => Ok((None, after.trim_start())),
        None => Err(wrong("has a comment without */")),
    }
}

fn unclosed() -> bocker_pipe::Error {
    wrong("has {{ without }}")
}

/// Reads one action up to its `}}`.
struct Lexer<'a> {
    text: &'a str,
    chars: Peekable<Chars<'a>>,
    left: usize,
    trims: bool,
}

impl<'a> Lexer<'a> {
    fn new(text: &'a str) -> Lexer<'a> {
        Lexer {
            text,
            chars: text.chars().peekable(),
            left: text.len(),
            trims: false,
        }
    }

    fn position(&self) -> usize {
        self.text.len() - self.left
    }

    fn rest(&self) -> &'a str {
        &self.text[self.position()..]
    }

    fn next(&mut self) -> Option<char> {
        let c = self.chars.next()?;
        self.left -= c.len_utf8();
        Some(c)
    }

    fn take(&mut self, is_meant: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        while self.chars.peek().is_some_and(|c| is_meant(*c)) {
            self.next();
        }
        &rest[..rest.len() - self.left]
    }

    fn action(&mut self) -> Result<Vec<Token>> {
        let mut tokens = Vec::new();
        loop {
            let spaced = !self.take(char::is_whitespace).is_empty();
            if self.rest().starts_with(CLOSE) {
                return Ok(tokens);
            }
            if spaced && self.rest().starts_with("-}}") {
                self.trims = true;
                return Ok(tokens);
            }
            let is = self.lexeme()?;
            let glued = !spaced && !tokens.is_empty();
            tokens.push(Token { is, glued });
        }
    }

    fn lexeme(&mut self) -> Result<Lexeme> {
        let rest = self.rest();
        let Some(first) = rest.chars().next() else {
            return Err(unclosed());
        };
        match first {
            '.' => Ok(self.fields()?),
            '"' => self.quoted(),
            '`' => {
                self.next();
                let text = self.take(|c| c != '`').to_owned();
                match self.next() {
                    Some(_) => Ok(Lexeme::Literal(text.into())),
                    None => Err(wrong("has a ` without its end")),
                }
            }
            '$' => {
                self.next();
                Ok(Lexeme::Variable(self.take(is_name).to_owned()))
            }
            '|' | '(' | ')' | ',' => {
                self.next();
                Ok(Lexeme::Sign(first))
            }
            ':' if rest.starts_with(":=") => {
                self.next();
                self.next();
                Ok(Lexeme::Declare)
            }
            '=' => {
                self.next();
                Ok(Lexeme::Assign)
            }
            '-' | '0'..='9' => {
                self.next();
                self.take(|c| c.is_ascii_alphanumeric() || c == '.');
                let text = &rest[..rest.len() - self.left];
                let number: Number = text
                    .parse()
                    .map_err(|_| wrong(&format!("has '{text}', which is no number")))?;
                Ok(Lexeme::Literal(number.into()))
            }
            c if c.is_alphabetic() || c == '_' => Ok(match self.take(is_name) {
                "true" => Lexeme::Literal(true.into()),
                "false" => Lexeme::Literal(false.into()),
                "nil" => Lexeme::Literal(Value::Null),
                word => Lexeme::Word(word.to_owned()),
            }),
            other => Err(wrong(&format!("has {other:?} where no such thing can be"))),
        }
    }

    fn fields(&mut self) -> Result<Lexeme> {
        let mut names = Vec::new();
        while self.rest().starts_with('.') {
            self.next();
            // Members of a document may have hyphens, which Go's names have not.
            let name = self.take(|c| is_name(c) || c == '-');
            if name.is_empty() {
                return match names.is_empty() {
                    true if !self.rest().starts_with('.') => Ok(Lexeme::Dot),
                    _ => Err(wrong("has a '.' without a name after it")),
                };
            }
            names.push(name.to_owned());
        }
        Ok(Lexeme::Fields(names))
    }

    fn quoted(&mut self) -> Result<Lexeme> {
        self.next();
        let mut text = String::new();
        loop {
            match self.next() {
                None | Some('\n') => return Err(wrong("has a \" without its end")),
                Some('"') => return Ok(Lexeme::Literal(text.into())),
                Some('\\') => text.push(match self.next() {
                    Some('n') => '\n',
                    Some('t') => '\t',
                    Some('r') => '\r',
                    Some(c @ ('"' | '\\' | '\'')) => c,
                    other => {
                        let other = other.unwrap_or_default();
                        return Err(wrong(&format!("has '\\{other}' in a string")));
                    }
                }),
                Some(c) => text.push(c),
            }
        }
    }
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}
