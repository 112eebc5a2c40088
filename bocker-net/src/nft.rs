//! nf_tables by nfnetlink: messages, expressions and elements, as far as our table needs them. There is no crate for it that
//! is both free of the GPL and knows nat, masq, ct and fib; the kernel's linux/netfilter/nf_tables.h is the reference, and
//! what `nft --debug=netlink` shows for the same rules.

use std::net::IpAddr;

use bocker_pipe::Result;
use netlink_sys::protocols::NETLINK_NETFILTER;
use nix::errno::Errno;

use crate::netlink::{
    self, Attributes, HEADER, NFGENMSG, NFPROTO_IPV4, NFPROTO_IPV6, NLM_F_ACK, NLM_F_APPEND,
    NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, Netlink, Refusal,
};

// linux/netfilter/nfnetlink.h
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFNL_MSG_BATCH_BEGIN: u16 = 16;
const NFNL_MSG_BATCH_END: u16 = 17;
const NFPROTO_UNSPEC: u8 = 0;
// linux/netfilter.h
const NFPROTO_INET: u8 = 1;

// linux/netfilter/nf_tables.h, enum nf_tables_msg_types
const NFT_MSG_NEWTABLE: u16 = 0;
const NFT_MSG_GETTABLE: u16 = 1;
const NFT_MSG_DELTABLE: u16 = 2;
const NFT_MSG_NEWCHAIN: u16 = 3;
const NFT_MSG_GETCHAIN: u16 = 4;
const NFT_MSG_NEWRULE: u16 = 6;
const NFT_MSG_GETRULE: u16 = 7;
const NFT_MSG_NEWSET: u16 = 9;
const NFT_MSG_NEWSETELEM: u16 = 12;
const NFT_MSG_GETSETELEM: u16 = 13;
const NFT_MSG_DELSETELEM: u16 = 14;

// The attributes of each, in the order of the header's enums.
const NFTA_TABLE_NAME: u16 = 1;
const NFTA_TABLE_FLAGS: u16 = 2;
const NFTA_TABLE_USERDATA: u16 = 6;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_POLICY: u16 = 5;
const NFTA_CHAIN_TYPE: u16 = 7;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NFTA_HOOK_PRIORITY: u16 = 2;
const NFTA_RULE_TABLE: u16 = 1;
const NFTA_RULE_CHAIN: u16 = 2;
const NFTA_RULE_EXPRESSIONS: u16 = 4;
const NFTA_LIST_ELEM: u16 = 1;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_SET_TABLE: u16 = 1;
const NFTA_SET_NAME: u16 = 2;
const NFTA_SET_FLAGS: u16 = 3;
const NFTA_SET_KEY_TYPE: u16 = 4;
const NFTA_SET_KEY_LEN: u16 = 5;
const NFTA_SET_DATA_TYPE: u16 = 6;
const NFTA_SET_DATA_LEN: u16 = 7;
const NFTA_SET_ID: u16 = 10;
const NFTA_SET_USERDATA: u16 = 13;
const NFTA_SET_ELEM_LIST_TABLE: u16 = 1;
const NFTA_SET_ELEM_LIST_SET: u16 = 2;
const NFTA_SET_ELEM_LIST_ELEMENTS: u16 = 3;
const NFTA_SET_ELEM_KEY: u16 = 1;
const NFTA_SET_ELEM_DATA: u16 = 2;
const NFTA_SET_ELEM_FLAGS: u16 = 3;
const NFTA_SET_ELEM_USERDATA: u16 = 6;
const NFTA_DATA_VALUE: u16 = 1;
const NFTA_DATA_VERDICT: u16 = 2;
const NFTA_VERDICT_CODE: u16 = 1;
const NFT_SET_INTERVAL: u32 = 0x4;
const NFT_SET_MAP: u32 = 0x8;
const NFT_SET_ELEM_INTERVAL_END: u32 = 0x1;
const NF_DROP: u32 = 0;
const NF_ACCEPT: u32 = 1;
const NF_INET_FORWARD: u32 = 2;

/// How many elements go into one message: the list is an attribute, whose length has 16 bits.
const ELEMENTS_AT_ONCE: usize = 500;

/// libnftnl's udata.h: the comment of a table and of an element, as nft(8) writes and shows it.
const UDATA_COMMENT: u8 = 0;
/// The same of a set: the byte order of its keys, and nft(8)'s number for the host's.
const UDATA_KEY_BYTEORDER: u8 = 0;
const HOST_ENDIAN: u32 = 1;

/// The register in which values pass from one expression to the next (NFT_REG_1), and its four-byte parts (NFT_REG32_00...).
pub(crate) const REGISTER: u32 = 1;
const REGISTER_PARTS: u32 = 8;
/// Bytes of a part.
pub(crate) const PART: u32 = 4;

/// What a table, a packet or an address is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

impl Family {
    pub(crate) fn of(address: IpAddr) -> Family {
        match address {
            IpAddr::V4(_) => Family::V4,
            IpAddr::V6(_) => Family::V6,
        }
    }

    /// enum of linux/netfilter.h
    pub(crate) fn number(self) -> u8 {
        match self {
            Family::V4 => NFPROTO_IPV4,
            Family::V6 => NFPROTO_IPV6,
        }
    }

    /// Bytes of an address.
    pub(crate) fn length(self) -> u32 {
        match self {
            Family::V4 => 4,
            Family::V6 => 16,
        }
    }
}

/// How a set or map is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lookup {
    /// Goes on when the set holds the value.
    Holds,
    /// Goes on when it does not.
    Lacks,
    /// Goes on with what the map gives for it.
    Gives,
}

/// An expression of a rule: its name and attributes, ready to be sent.
pub(crate) struct Expression {
    name: &'static str,
    attributes: Attributes,
}

/// A value or verdict of nf_tables: nested once more than other attributes.
trait Values {
    fn value(self, kind: u16, value: &[u8]) -> Self;
}

impl Values for Attributes {
    fn value(self, kind: u16, value: &[u8]) -> Attributes {
        self.nest(kind, Attributes::default().bytes(NFTA_DATA_VALUE, value))
    }
}

/// Where a packet's bytes are counted from (enum nft_payload_bases).
#[derive(Clone, Copy)]
pub(crate) enum Base {
    Network = 1,
    Transport = 2,
}

/// The expressions of nf_tables that our rules are made of. `part` counts the register's four-byte parts.
impl Expression {
    fn new(name: &'static str, attributes: Attributes) -> Expression {
        Expression { name, attributes }
    }

    fn part(part: u32) -> u32 {
        if part == 0 {
            REGISTER
        } else {
            REGISTER_PARTS + part
        }
    }

    /// `meta load KEY => part` (enum nft_meta_keys).
    pub(crate) fn meta(key: u32, part: u32) -> Expression {
        // NFTA_META_DREG, NFTA_META_KEY
        Expression::new(
            "meta",
            Attributes::default()
                .number(2, key)
                .number(1, Expression::part(part)),
        )
    }

    /// `ct load KEY => register` (enum nft_ct_keys).
    pub(crate) fn ct(key: u32) -> Expression {
        // NFTA_CT_DREG, NFTA_CT_KEY
        Expression::new(
            "ct",
            Attributes::default().number(2, key).number(1, REGISTER),
        )
    }

    /// `payload load LENGTHb @ BASE header + OFFSET => part`.
    pub(crate) fn payload(base: Base, offset: u32, length: u32, part: u32) -> Expression {
        // NFTA_PAYLOAD_DREG, _BASE, _OFFSET, _LEN
        let attributes = Attributes::default()
            .number(1, Expression::part(part))
            .number(2, base as u32);
        Expression::new("payload", attributes.number(3, offset).number(4, length))
    }

    /// `fib daddr type => register`: what kind of address the destination is here.
    pub(crate) fn fib_daddr_type() -> Expression {
        const NFT_FIB_RESULT_ADDRTYPE: u32 = 3;
        const NFTA_FIB_F_DADDR: u32 = 2;
        // NFTA_FIB_DREG, _RESULT, _FLAGS
        let attributes = Attributes::default()
            .number(3, NFTA_FIB_F_DADDR)
            .number(2, NFT_FIB_RESULT_ADDRTYPE);
        Expression::new("fib", attributes.number(1, REGISTER))
    }

    /// `cmp eq|neq register VALUE`.
    pub(crate) fn compare(equal: bool, value: &[u8]) -> Expression {
        // NFTA_CMP_SREG, _OP, _DATA
        let attributes = Attributes::default()
            .number(1, REGISTER)
            .number(2, u32::from(!equal));
        Expression::new("cmp", attributes.value(3, value))
    }

    /// `bitwise register = register & MASK`, of four bytes in host order.
    pub(crate) fn and(mask: u32) -> Expression {
        // NFTA_BITWISE_SREG, _DREG, _LEN, _MASK, _XOR
        let attributes = Attributes::default()
            .number(1, REGISTER)
            .number(2, REGISTER)
            .number(3, 4);
        Expression::new(
            "bitwise",
            attributes.value(4, &mask.to_ne_bytes()).value(5, &[0; 4]),
        )
    }

    /// `meta nfproto ipv4|ipv6`: packets of the other family go on to the next rule.
    pub(crate) fn family(family: Family) -> [Expression; 2] {
        const NFT_META_NFPROTO: u32 = 15;
        [
            Expression::meta(NFT_META_NFPROTO, 0),
            Expression::compare(true, &[family.number()]),
        ]
    }

    /// `lookup register set SET`, and for a map `dreg register`.
    pub(crate) fn lookup(set: &str, how: Lookup) -> Expression {
        const NFT_LOOKUP_F_INV: u32 = 1;
        // NFTA_LOOKUP_SET, _SREG, _DREG, _FLAGS
        let attributes = Attributes::default().text(1, set).number(2, REGISTER);
        let attributes = match how {
            Lookup::Holds => attributes,
            Lookup::Lacks => attributes.number(5, NFT_LOOKUP_F_INV),
            Lookup::Gives => attributes.number(3, REGISTER),
        };
        Expression::new("lookup", attributes)
    }

    /// `immediate verdict CODE`: NF_DROP, NF_ACCEPT, NFT_RETURN.
    pub(crate) fn verdict(code: i32) -> Expression {
        let verdict = Attributes::default().bytes(NFTA_VERDICT_CODE, &code.to_be_bytes());
        // NFTA_IMMEDIATE_DREG: NFT_REG_VERDICT, NFTA_IMMEDIATE_DATA
        let data = Attributes::default().nest(NFTA_DATA_VERDICT, verdict);
        Expression::new(
            "immediate",
            Attributes::default().number(1, 0).nest(2, data),
        )
    }

    /// `nat dnat ip|ip6 addr_min register proto_min the part after it`: to the address and port that a map has given.
    pub(crate) fn dnat(family: Family) -> Expression {
        const NFT_NAT_DNAT: u32 = 1;
        // NFTA_NAT_TYPE, _FAMILY, _REG_ADDR_MIN, _REG_PROTO_MIN
        let attributes = Attributes::default()
            .number(1, NFT_NAT_DNAT)
            .number(2, u32::from(family.number()));
        Expression::new(
            "nat",
            attributes
                .number(3, REGISTER)
                .number(5, Expression::part(family.length() / PART)),
        )
    }

    /// `masq`.
    pub(crate) fn masquerade() -> Expression {
        Expression::new("masq", Attributes::default())
    }
}

/// One element of a set or map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Element {
    pub(crate) key: Vec<u8>,
    /// What a map gives for the key; empty in a set.
    pub(crate) data: Vec<u8>,
    pub(crate) comment: Option<String>,
    /// Where a range ends: its key is the first that the range does not hold. Ranges are kept as two elements.
    pub(crate) ends: bool,
}

/// What a set or map holds. Types are nft's own, kept for its listing; each with its length in bytes.
pub(crate) struct SetType {
    pub(crate) key: (u32, u32),
    /// What a map gives.
    pub(crate) data: Option<(u32, u32)>,
    /// Whether it holds ranges.
    pub(crate) interval: bool,
    /// Whether the key is in the host's byte order, as interfaces' names are to nft(8), which lists them by it.
    pub(crate) host_order: bool,
}

/// A chain of anybody's, as far as it says what becomes of packets.
pub(crate) struct BaseChain {
    /// As nft(8) calls it; `None` where no packets of containers are (bridge, arp, netdev).
    pub(crate) family: Option<&'static str>,
    pub(crate) table: String,
    pub(crate) name: String,
    /// Whether all that is forwarded passes it.
    pub(crate) forwards: bool,
    /// Whether it drops what no rule of its accepts.
    pub(crate) drops: bool,
}

/// A transaction: the kernel does all of it or nothing.
pub(crate) struct Batch {
    bytes: Vec<u8>,
    first: u32,
    last: u32,
    last_at: usize,
}

/// An nfnetlink socket for one table.
pub(crate) struct Nft {
    netlink: Netlink,
    /// NFPROTO_INET, or that of one address family.
    family: u8,
    table: &'static str,
}

impl Nft {
    /// Opens one in the calling thread's network namespace, for a table of the family `inet`, or `ip` or `ip6` if one is given.
    pub(crate) fn open(family: Option<Family>, table: &'static str) -> Result<Nft> {
        Ok(Nft {
            netlink: Netlink::open(NETLINK_NETFILTER)?,
            family: family.map_or(NFPROTO_INET, Family::number),
            table,
        })
    }

    /// Begins a transaction.
    pub(crate) fn batch(&mut self) -> Batch {
        let mut bytes = Vec::with_capacity(4096);
        let first = self.netlink.netfilter(
            &mut bytes,
            NFNL_MSG_BATCH_BEGIN,
            0,
            NFPROTO_UNSPEC,
            NFNL_SUBSYS_NFTABLES,
            &[],
        );
        Batch {
            bytes,
            first,
            last: first,
            last_at: 0,
        }
    }

    fn put(&mut self, batch: &mut Batch, kind: u16, flags: u16, attributes: &Attributes) {
        self.put_for(self.family, batch, kind, flags, attributes);
    }

    fn put_for(
        &mut self,
        family: u8,
        batch: &mut Batch,
        kind: u16,
        flags: u16,
        attributes: &Attributes,
    ) {
        batch.last_at = batch.bytes.len();
        let kind = NFNL_SUBSYS_NFTABLES << 8 | kind;
        batch.last =
            self.netlink
                .netfilter(&mut batch.bytes, kind, flags, family, 0, &attributes.0);
    }

    /// Sends a transaction. Fails with what the kernel says about its first message that cannot be done.
    pub(crate) fn commit(&mut self, mut batch: Batch) -> Result<(), Refusal> {
        // One acknowledgement, for the last message, tells that all is done.
        let flags = batch.last_at + 6;
        if let Some(place) = batch.bytes.get_mut(flags..flags + 2) {
            let flags = netlink::u16_at(place, 0) | NLM_F_ACK;
            place.copy_from_slice(&flags.to_ne_bytes());
        }
        self.netlink.netfilter(
            &mut batch.bytes,
            NFNL_MSG_BATCH_END,
            0,
            NFPROTO_UNSPEC,
            NFNL_SUBSYS_NFTABLES,
            &[],
        );
        self.netlink
            .exchange(&batch.bytes, batch.first, batch.last)
            .map(|_| ())
    }

    fn ask(
        &mut self,
        kind: u16,
        flags: u16,
        attributes: &Attributes,
    ) -> Result<Vec<netlink::Answer>, Refusal> {
        let mut bytes = Vec::new();
        let kind = NFNL_SUBSYS_NFTABLES << 8 | kind;
        let sequence =
            self.netlink
                .netfilter(&mut bytes, kind, flags, self.family, 0, &attributes.0);
        self.netlink.exchange(&bytes, sequence, sequence)
    }

    /// The comment of our table: `None` when there is no such table, an empty text when it has no comment.
    pub(crate) fn table_comment(&mut self) -> Result<Option<String>, Refusal> {
        let attributes = Attributes::default().text(NFTA_TABLE_NAME, self.table);
        let answers = match self.ask(NFT_MSG_GETTABLE, NLM_F_ACK, &attributes) {
            Err(refusal) if refusal.errno == Errno::ENOENT => return Ok(None),
            answers => answers?,
        };
        let userdata = answers.iter().find_map(|answer| {
            netlink::attribute(answer.get(HEADER + NFGENMSG..)?, NFTA_TABLE_USERDATA)
                .and_then(comment)
        });
        Ok(Some(userdata.unwrap_or_default()))
    }

    /// `add table`, which must not exist.
    pub(crate) fn add_table(&mut self, batch: &mut Batch, comment: &str) {
        let attributes = Attributes::default()
            .text(NFTA_TABLE_NAME, self.table)
            .number(NFTA_TABLE_FLAGS, 0)
            .bytes(NFTA_TABLE_USERDATA, &userdata(comment));
        self.put(
            batch,
            NFT_MSG_NEWTABLE,
            NLM_F_CREATE | NLM_F_EXCL,
            &attributes,
        );
    }

    /// `delete table`, with all that is in it.
    pub(crate) fn delete_table(&mut self, batch: &mut Batch) {
        let attributes = Attributes::default().text(NFTA_TABLE_NAME, self.table);
        self.put(batch, NFT_MSG_DELTABLE, 0, &attributes);
    }

    /// The same for a table of this name and of another family.
    pub(crate) fn delete_table_of(&mut self, batch: &mut Batch, family: Family) {
        let attributes = Attributes::default().text(NFTA_TABLE_NAME, self.table);
        self.put_for(family.number(), batch, NFT_MSG_DELTABLE, 0, &attributes);
    }

    /// `add chain { type KIND hook HOOK priority PRIORITY; policy accept; }`.
    pub(crate) fn add_chain(
        &mut self,
        batch: &mut Batch,
        name: &str,
        kind: &str,
        hook: u32,
        priority: i32,
    ) {
        let hook = Attributes::default()
            .number(NFTA_HOOK_HOOKNUM, hook)
            .bytes(NFTA_HOOK_PRIORITY, &priority.to_be_bytes());
        let attributes = Attributes::default()
            .text(NFTA_CHAIN_TABLE, self.table)
            .text(NFTA_CHAIN_NAME, name)
            .text(NFTA_CHAIN_TYPE, kind)
            .number(NFTA_CHAIN_POLICY, NF_ACCEPT)
            .nest(NFTA_CHAIN_HOOK, hook);
        self.put(batch, NFT_MSG_NEWCHAIN, NLM_F_CREATE, &attributes);
    }

    /// `add set` or `add map`.
    pub(crate) fn add_set(&mut self, batch: &mut Batch, id: u32, name: &str, holds: &SetType) {
        let map = if holds.data.is_some() { NFT_SET_MAP } else { 0 };
        let interval = if holds.interval { NFT_SET_INTERVAL } else { 0 };
        let mut attributes = Attributes::default()
            .text(NFTA_SET_TABLE, self.table)
            .text(NFTA_SET_NAME, name)
            .number(NFTA_SET_FLAGS, map | interval)
            .number(NFTA_SET_KEY_TYPE, holds.key.0)
            .number(NFTA_SET_KEY_LEN, holds.key.1)
            .number(NFTA_SET_ID, id);
        if let Some((kind, length)) = holds.data {
            attributes = attributes
                .number(NFTA_SET_DATA_TYPE, kind)
                .number(NFTA_SET_DATA_LEN, length);
        }
        if holds.host_order {
            let mut order = vec![UDATA_KEY_BYTEORDER, size_of_val(&HOST_ENDIAN) as u8];
            order.extend(HOST_ENDIAN.to_ne_bytes());
            attributes = attributes.bytes(NFTA_SET_USERDATA, &order);
        }
        self.put(batch, NFT_MSG_NEWSET, NLM_F_CREATE, &attributes);
    }

    /// `add rule`.
    pub(crate) fn add_rule(
        &mut self,
        batch: &mut Batch,
        chain: &str,
        expressions: Vec<Expression>,
    ) {
        let list = expressions
            .into_iter()
            .fold(Attributes::default(), |list, expression| {
                let inner = Attributes::default()
                    .text(NFTA_EXPR_NAME, expression.name)
                    .nest(NFTA_EXPR_DATA, expression.attributes);
                list.nest(NFTA_LIST_ELEM, inner)
            });
        let attributes = Attributes::default()
            .text(NFTA_RULE_TABLE, self.table)
            .text(NFTA_RULE_CHAIN, chain)
            .nest(NFTA_RULE_EXPRESSIONS, list);
        self.put(
            batch,
            NFT_MSG_NEWRULE,
            NLM_F_CREATE | NLM_F_APPEND,
            &attributes,
        );
    }

    fn elements_of(&self, set: &str, elements: &[Element]) -> Attributes {
        let list = elements
            .iter()
            .fold(Attributes::default(), |list, element| {
                let mut inner = Attributes::default().value(NFTA_SET_ELEM_KEY, &element.key);
                if element.ends {
                    inner = inner.number(NFTA_SET_ELEM_FLAGS, NFT_SET_ELEM_INTERVAL_END);
                }
                if !element.data.is_empty() {
                    inner = inner.value(NFTA_SET_ELEM_DATA, &element.data);
                }
                if let Some(comment) = &element.comment {
                    inner = inner.bytes(NFTA_SET_ELEM_USERDATA, &userdata(comment));
                }
                list.nest(NFTA_LIST_ELEM, inner)
            });
        self.set(set).nest(NFTA_SET_ELEM_LIST_ELEMENTS, list)
    }

    fn set(&self, set: &str) -> Attributes {
        Attributes::default()
            .text(NFTA_SET_ELEM_LIST_TABLE, self.table)
            .text(NFTA_SET_ELEM_LIST_SET, set)
    }

    /// `create element`: EEXIST when a key is taken.
    pub(crate) fn create_elements(&mut self, batch: &mut Batch, set: &str, elements: &[Element]) {
        let flags = NLM_F_CREATE | NLM_F_EXCL;
        self.put_elements(batch, NFT_MSG_NEWSETELEM, flags, set, elements);
    }

    /// `add element`: those that are there already stay as they are.
    pub(crate) fn add_elements(&mut self, batch: &mut Batch, set: &str, elements: &[Element]) {
        self.put_elements(batch, NFT_MSG_NEWSETELEM, NLM_F_CREATE, set, elements);
    }

    /// `delete element`. The kernel takes its time to forget them: whoever closes this socket within a grace period of RCU,
    /// some 20 ms, waits for its end.
    pub(crate) fn delete_elements(&mut self, batch: &mut Batch, set: &str, elements: &[Element]) {
        self.put_elements(batch, NFT_MSG_DELSETELEM, 0, set, elements);
    }

    fn put_elements(
        &mut self,
        batch: &mut Batch,
        kind: u16,
        flags: u16,
        set: &str,
        elements: &[Element],
    ) {
        for some in elements.chunks(ELEMENTS_AT_ONCE) {
            let attributes = self.elements_of(set, some);
            self.put(batch, kind, flags, &attributes);
        }
    }

    /// The element with this key, or the beginning of the range that holds it. `None` without one, or without the set or
    /// the table.
    pub(crate) fn get_element(
        &mut self,
        set: &str,
        key: &[u8],
    ) -> Result<Option<Element>, Refusal> {
        let wanted = Element {
            key: key.to_vec(),
            data: Vec::new(),
            comment: None,
            ends: false,
        };
        let attributes = self.elements_of(set, &[wanted]);
        match self.ask(NFT_MSG_GETSETELEM, NLM_F_ACK, &attributes) {
            Err(refusal) if refusal.errno == Errno::ENOENT => Ok(None),
            answers => Ok(answers?.iter().flat_map(|answer| elements(answer)).next()),
        }
    }

    /// The chain of each rule of the table. None without the table.
    pub(crate) fn chains_of_rules(&mut self) -> Result<Vec<String>, Refusal> {
        let attributes = Attributes::default().text(NFTA_RULE_TABLE, self.table);
        let answers = match self.ask(NFT_MSG_GETRULE, NLM_F_DUMP, &attributes) {
            Err(refusal) if refusal.errno == Errno::ENOENT => return Ok(Vec::new()),
            answers => answers?,
        };
        let text = |answer: &netlink::Answer, kind| {
            let text = netlink::attribute(answer.get(HEADER + NFGENMSG..)?, kind)?;
            let text = text.split(|byte| *byte == 0).next()?;
            Some(String::from_utf8_lossy(text).into_owned())
        };
        // Before Linux 5.19 the rules of all tables are dumped, whatever was asked for.
        let ours = |answer: &&netlink::Answer| {
            text(answer, NFTA_RULE_TABLE).is_some_and(|table| table == self.table)
        };
        let chains = answers.iter().filter(ours);
        Ok(chains
            .filter_map(|answer| text(answer, NFTA_RULE_CHAIN))
            .collect())
    }

    /// All chains of all tables.
    pub(crate) fn chains(&mut self) -> Result<Vec<BaseChain>, Refusal> {
        let mut bytes = Vec::new();
        let kind = NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETCHAIN;
        let sequence = self
            .netlink
            .netfilter(&mut bytes, kind, NLM_F_DUMP, NFPROTO_UNSPEC, 0, &[]);
        let answers = self.netlink.exchange(&bytes, sequence, sequence)?;
        Ok(answers.iter().filter_map(|answer| chain(answer)).collect())
    }

    /// All elements of a set. None without the set or the table.
    pub(crate) fn elements(&mut self, set: &str) -> Result<Vec<Element>, Refusal> {
        let attributes = self.set(set);
        match self.ask(NFT_MSG_GETSETELEM, NLM_F_DUMP, &attributes) {
            Err(refusal) if refusal.errno == Errno::ENOENT => Ok(Vec::new()),
            answers => Ok(answers?
                .iter()
                .flat_map(|answer| elements(answer))
                .collect()),
        }
    }
}

fn chain(answer: &[u8]) -> Option<BaseChain> {
    let family = match *answer.get(HEADER)? {
        NFPROTO_INET => Some("inet"),
        NFPROTO_IPV4 => Some("ip"),
        NFPROTO_IPV6 => Some("ip6"),
        _ => None,
    };
    let bytes = answer.get(HEADER + NFGENMSG..)?;
    let text = |kind| {
        let text = netlink::attribute(bytes, kind)?;
        let text = text.split(|byte| *byte == 0).next()?;
        Some(String::from_utf8_lossy(text).into_owned())
    };
    let number = |bytes, kind| {
        netlink::attribute(bytes, kind).map(|number| u32::from_be(netlink::u32_at(number, 0)))
    };
    let hook = netlink::attribute(bytes, NFTA_CHAIN_HOOK);
    Some(BaseChain {
        family,
        table: text(NFTA_CHAIN_TABLE)?,
        name: text(NFTA_CHAIN_NAME)?,
        forwards: hook.and_then(|hook| number(hook, NFTA_HOOK_HOOKNUM)) == Some(NF_INET_FORWARD),
        drops: number(bytes, NFTA_CHAIN_POLICY) == Some(NF_DROP),
    })
}

fn elements(answer: &[u8]) -> Vec<Element> {
    let list = answer
        .get(HEADER + NFGENMSG..)
        .and_then(|bytes| netlink::attribute(bytes, NFTA_SET_ELEM_LIST_ELEMENTS))
        .unwrap_or_default();
    let value = |bytes, kind| {
        netlink::attribute(bytes, kind)
            .and_then(|data| netlink::attribute(data, NFTA_DATA_VALUE))
            .map(<[u8]>::to_vec)
    };
    let element = |(_, bytes)| {
        let comment = netlink::attribute(bytes, NFTA_SET_ELEM_USERDATA).and_then(comment);
        let data = value(bytes, NFTA_SET_ELEM_DATA).unwrap_or_default();
        let flags = netlink::attribute(bytes, NFTA_SET_ELEM_FLAGS)
            .map_or(0, |flags| u32::from_be(netlink::u32_at(flags, 0)));
        let ends = flags & NFT_SET_ELEM_INTERVAL_END != 0;
        Some(Element {
            key: value(bytes, NFTA_SET_ELEM_KEY)?,
            data,
            comment,
            ends,
        })
    };
    netlink::attributes(list).filter_map(element).collect()
}

/// A comment as nft(8) keeps it: type, length and text with its final zero.
fn userdata(comment: &str) -> Vec<u8> {
    let text = comment.as_bytes();
    // Comments of ours are ids and one constant.
    let mut bytes = vec![UDATA_COMMENT, (text.len() + 1) as u8];
    bytes.extend_from_slice(text);
    bytes.push(0);
    bytes
}

fn comment(mut userdata: &[u8]) -> Option<String> {
    while let [kind, length, rest @ ..] = userdata {
        let length = usize::from(*length);
        let value = rest.get(..length)?;
        if *kind == UDATA_COMMENT {
            let text = value.strip_suffix(&[0]).unwrap_or(value);
            return Some(String::from_utf8_lossy(text).into_owned());
        }
        userdata = &rest[length..];
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_comment_is_read_back_as_it_was_written() {
        assert_eq!(comment(&userdata("ps_abc123")), Some("ps_abc123".into()));
        assert_eq!(
            comment(&[7, 2, 1, 2, 0, 3, b'h', b'i', 0]),
            Some("hi".into())
        );
        assert_eq!(comment(&[0, 200, 1]), None);
    }

    #[test]
    fn attributes_are_padded_and_nested() {
        let attributes = Attributes::default()
            .text(1, "abcd")
            .nest(2, Attributes::default().number(3, 1));
        assert_eq!(attributes.0.len(), 12 + 12);
        let nested = netlink::attribute(&attributes.0, 2).unwrap();
        assert_eq!(netlink::attribute(nested, 3), Some(&[0, 0, 0, 1][..]));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_readers_fail(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            elements(&bytes);
            chain(&bytes);
            comment(&bytes);
        }
    }
}
