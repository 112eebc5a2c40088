//! The program by which cgroup v2 is told which devices a group may use: BPF instructions made from a list of rules. The
//! kernel runs it with what is to be done to which device, and denies what it answers 0 to.
//! Kernel documentation: admin-guide/cgroup-v2 ("Device controller"), bpf/standardization/instruction-set.

use std::fmt;

/// Types of devices (BPF_DEVCG_DEV_*, linux/bpf.h).
pub(crate) const BLOCK: u32 = 1;
pub(crate) const CHARACTER: u32 = 2;
/// What may be done to them (BPF_DEVCG_ACC_*).
pub(crate) const MKNOD: u32 = 1;
pub(crate) const READ: u32 = 2;
pub(crate) const WRITE: u32 = 4;

/// The members of struct bpf_cgroup_dev_ctx (linux/bpf.h), of 4 bytes each. The first has the type of the device in its
/// lower half, and what is to be done to it in its upper one.
const ACCESS_TYPE: i16 = 0;
const MAJOR: i16 = 4;
const MINOR: i16 = 8;
const TYPE_MASK: i32 = 0xffff;
const ACCESS_SHIFT: i32 = 16;

/// Operation codes (instruction-set, "Instruction encoding"): a class, an operation, and for arithmetic and jumps whether
/// the second operand is a register (X) or a constant (K).
const LOAD_WORD: u8 = 0x61; // BPF_LDX | BPF_MEM | BPF_W
const MOVE_X: u8 = 0xbc; // BPF_ALU | BPF_MOV | BPF_X
const MOVE_K: u8 = 0xb4; // BPF_ALU | BPF_MOV | BPF_K
const AND_K: u8 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const SHIFT_RIGHT_K: u8 = 0x74; // BPF_ALU | BPF_RSH | BPF_K
const JUMP_UNLESS_EQUAL_K: u8 = 0x55; // BPF_JMP | BPF_JNE | BPF_K
const EXIT: u8 = 0x95; // BPF_JMP | BPF_EXIT

/// Registers: the answer, and the context that a program is called with.
const ANSWER: u8 = 0;
const CONTEXT: u8 = 1;
/// Ours. The context is not needed any more when [`SCRATCH`] is used.
const SCRATCH: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const DEVICE_MAJOR: u8 = 4;
const DEVICE_MINOR: u8 = 5;

const DENIED: i32 = 0;
const ALLOWED: i32 = 1;

/// Allows an access, all of it or a part, to devices of a type; a number that is `None` is any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) kind: u32,
    pub(crate) major: Option<u32>,
    pub(crate) minor: Option<u32>,
    pub(crate) access: u32,
}

impl Rule {
    /// The type's letter, as ls(1) shows it.
    pub(crate) fn letter(&self) -> &'static str {
        if self.kind == BLOCK { "b" } else { "c" }
    }

    /// The letters of what is allowed.
    pub(crate) fn accesses(&self) -> String {
        [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')]
            .into_iter()
            .filter_map(|(bit, letter)| (self.access & bit != 0).then_some(letter))
            .collect()
    }
}

/// As devices.allow of v1 takes it: `c 136:* rwm`.
impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |n: Option<u32>| n.map_or("*".to_owned(), |n| n.to_string());
        let (major, minor) = (number(self.major), number(self.minor));
        write!(f, "{} {major}:{minor} {}", self.letter(), self.accesses())
    }
}

/// An instruction as the kernel takes it (struct bpf_insn).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    constant: i32,
}

impl Instruction {
    fn new(code: u8, destination: u8, source: u8, offset: i16, constant: i32) -> Instruction {
        // The two are bit fields, whose order is the machine's.
        let registers = if cfg!(target_endian = "little") {
            source << 4 | destination
        } else {
            destination << 4 | source
        };
        Instruction {
            code,
            registers,
            offset,
            constant,
        }
    }

    fn load(destination: u8, offset: i16) -> Instruction {
        Instruction::new(LOAD_WORD, destination, CONTEXT, offset, 0)
    }

    fn with(code: u8, destination: u8, constant: i32) -> Instruction {
        Instruction::new(code, destination, 0, 0, constant)
    }
}

/// A program that allows what some rule allows, and denies the rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Filter {
    rules: Vec<Rule>,
}

impl Filter {
    pub(crate) fn new(rules: &[Rule]) -> Filter {
        Filter {
            rules: rules.to_vec(),
        }
    }

    /// The program.
    pub(crate) fn instructions(&self) -> Vec<Instruction> {
        let mut program = vec![
            Instruction::load(KIND, ACCESS_TYPE),
            Instruction::new(MOVE_X, ACCESS, KIND, 0, 0),
            Instruction::with(AND_K, KIND, TYPE_MASK),
            Instruction::with(SHIFT_RIGHT_K, ACCESS, ACCESS_SHIFT),
            Instruction::load(DEVICE_MAJOR, MAJOR),
            Instruction::load(DEVICE_MINOR, MINOR),
        ];
        for rule in &self.rules {
            program.extend(allow(rule));
        }
        program.extend(answer(DENIED));
        program
    }
}

/// What people read of it.
impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a device program that denies all but")?;
        for (position, rule) in self.rules.iter().enumerate() {
            let comma = if position == 0 { "" } else { "," };
            write!(f, "{comma} {rule}")?;
        }
        Ok(())
    }
}

fn answer(answer: i32) -> [Instruction; 2] {
    [
        Instruction::with(MOVE_K, ANSWER, answer),
        Instruction::with(EXIT, 0, 0),
    ]
}

/// Ends the program when the rule allows what is asked; falls through to what follows otherwise.
fn allow(rule: &Rule) -> Vec<Instruction> {
    let mut tests = vec![(KIND, rule.kind)];
    tests.extend(rule.major.map(|major| (DEVICE_MAJOR, major)));
    tests.extend(rule.minor.map(|minor| (DEVICE_MINOR, minor)));
    let mut program = vec![
        // What is asked and not among what is allowed: nothing, or the rule does not allow it.
        Instruction::new(MOVE_X, SCRATCH, ACCESS, 0, 0),
        Instruction::with(AND_K, SCRATCH, !(rule.access as i32)),
    ];
    tests.insert(0, (SCRATCH, 0));
    for (register, value) in tests {
        program.push(Instruction::with(
            JUMP_UNLESS_EQUAL_K,
            register,
            value as i32,
        ));
    }
    program.extend(answer(ALLOWED));
    let length = program.len();
    for (position, instruction) in program.iter_mut().enumerate() {
        if instruction.code == JUMP_UNLESS_EQUAL_K {
            // Counted from the instruction after it. A rule has nine at most.
            instruction.offset = (length - position - 1) as i16;
        }
    }
    program
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A machine for the instructions that there are here, written from the kernel's document and not from the code above.
    /// It refuses all others, jumps out of the program or backwards, and registers that were never written.
    fn run(program: &[Instruction], kind: u32, access: u32, major: u32, minor: u32) -> u64 {
        let context = [access << 16 | kind, major, minor];
        let mut registers: [Option<u64>; 11] = [None; 11];
        let mut at = 0;
        loop {
            let Instruction {
                code,
                registers: both,
                offset,
                constant,
            } = program[at];
            let bytes = both.to_le_bytes()[0];
            let (low, high) = (usize::from(bytes & 0xf), usize::from(bytes >> 4));
            let (to, from) = if cfg!(target_endian = "little") {
                (low, high)
            } else {
                (high, low)
            };
            at += 1;
            let k = constant as u32;
            let read = |n: usize| registers[n].expect("a register was written") as u32;
            let value = match code {
                0x61 => {
                    assert!(
                        from == 1 && registers[1].is_none() && offset % 4 == 0,
                        "the context"
                    );
                    context[usize::try_from(offset / 4).unwrap()]
                }
                0xbc => read(from),
                0xb4 => k,
                0x54 => read(to) & k,
                0x74 => read(to) >> k,
                0x55 => {
                    if registers[to].expect("a register") != i64::from(constant) as u64 {
                        at += usize::try_from(offset).expect("forwards");
                    }
                    continue;
                }
                0x95 => return registers[0].expect("an answer"),
                other => panic!("no operation {other:#x}"),
            };
            registers[to] = Some(value.into());
        }
    }

    /// What the list of rules says, as the kernel's document for v1 has it.
    fn allows(rules: &[Rule], kind: u32, access: u32, major: u32, minor: u32) -> bool {
        rules.iter().any(|rule| {
            rule.kind == kind
                && rule.access & access == access
                && rule.major.is_none_or(|n| n == major)
                && rule.minor.is_none_or(|n| n == minor)
        })
    }

    fn agree(rules: &[Rule], kind: u32, access: u32, major: u32, minor: u32) {
        let program = Filter::new(rules).instructions();
        assert_eq!(
            run(&program, kind, access, major, minor),
            u64::from(allows(rules, kind, access, major, minor)),
            "type {kind} access {access} of {major}:{minor} under {rules:?}"
        );
    }

    const RULES: [Rule; 4] = [
        Rule {
            kind: CHARACTER,
            major: None,
            minor: None,
            access: MKNOD,
        },
        Rule {
            kind: CHARACTER,
            major: Some(1),
            minor: Some(3),
            access: READ | WRITE | MKNOD,
        },
        Rule {
            kind: CHARACTER,
            major: Some(136),
            minor: None,
            access: READ | WRITE,
        },
        Rule {
            kind: BLOCK,
            major: None,
            minor: Some(7),
            access: READ,
        },
    ];

    #[test]
    fn the_program_answers_as_the_rules_do_in_every_case() {
        for kind in [BLOCK, CHARACTER] {
            for access in 0..8 {
                for major in [0, 1, 2, 3, 7, 8, 135, 136, 137, 4095] {
                    for minor in [0, 1, 3, 4, 7, 8, 136, 1_048_575] {
                        agree(&RULES, kind, access, major, minor);
                    }
                }
            }
        }
    }

    #[test]
    fn without_rules_nothing_is_allowed() {
        assert_eq!(
            run(&Filter::new(&[]).instructions(), CHARACTER, READ, 1, 3),
            0
        );
    }

    #[test]
    fn instructions_are_eight_bytes_as_the_kernel_has_them() {
        assert_eq!(size_of::<Instruction>(), 8);
        let load = Instruction::load(KIND, MAJOR);
        if cfg!(target_endian = "little") {
            assert_eq!((load.code, load.registers, load.offset), (0x61, 0x12, 4));
        }
    }

    #[test]
    fn rules_are_shown_as_version_1_writes_them() {
        let shown: Vec<String> = RULES.iter().map(Rule::to_string).collect();
        assert_eq!(shown, ["c *:* m", "c 1:3 rwm", "c 136:* rw", "b *:7 r"]);
        assert_eq!(
            Filter::new(&RULES[..2]).to_string(),
            "a device program that denies all but c *:* m, c 1:3 rwm"
        );
    }

    fn rule() -> impl Strategy<Value = Rule> {
        let number = || proptest::option::of(0u32..4);
        (1u32..3, number(), number(), 0u32..8).prop_map(|(kind, major, minor, access)| Rule {
            kind,
            major,
            minor,
            access,
        })
    }

    proptest! {
        #[test]
        fn any_rules_are_what_the_program_does(
            rules in prop::collection::vec(rule(), 0..6),
            (kind, access) in (1u32..3, 0u32..8),
            (major, minor) in (0u32..5, 0u32..5),
        ) {
            agree(&rules, kind, access, major, minor);
        }
    }
}
