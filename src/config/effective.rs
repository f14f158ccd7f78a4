//! The effective configuration (`-T --effective`): every block with its own directives and the inherited
//! ones, each with the place where it is written.
//!
//! Inheritance is nginx's; each row says how its directive is inherited ([`Inherits`]).

use crate::config::convert::nginx_word;
use crate::config::{Block, Context, Entry, Inherits, Node, Places, RowInfo, Shape, Span, Tree};

const INDENT: &str = "    ";

/// Finds the row of a directive in a block, among the tables of all language parts.
pub type Find<'a> = &'a dyn Fn(&str, Context) -> Option<RowInfo>;

/// A remark behind a directive, by the place of its first argument.
pub type Remark<'a> = &'a dyn Fn(Span) -> Option<String>;

/// Writes the tree in nginx's spelling, adding the directives that each block inherits, and remarks.
pub fn effective(tree: &Tree, find: Find<'_>, remark: Remark<'_>) -> String {
    let mut writer = Writer { places: tree.places(), find, remark, out: String::new() };
    writer.block(&tree.nodes, Context::MAIN, &[], 0);
    writer.out
}

/// The directives of one name (or of several names that form one list) in the block that sets them.
struct Setting<'a> {
    list: &'a str,
    context: Context,
    nodes: Vec<&'a Node>,
}

struct Writer<'a> {
    places: Places,
    find: Find<'a>,
    remark: Remark<'a>,
    out: String,
}

impl Writer<'_> {
    fn block<'n>(&mut self, nodes: &'n [Node], context: Context, outer: &[&Setting<'n>], depth: usize) {
        let mut own: Vec<Setting<'n>> = Vec::new();
        for node in nodes.iter().filter(|node| node.block.is_none()) {
            let list = self.list_of(node, context);
            match own.iter_mut().find(|setting| setting.list == list) {
                Some(setting) => setting.nodes.push(node),
                None => own.push(Setting { list, context, nodes: vec![node] }),
            }
        }
        let is_own = |setting: &Setting<'_>| own.iter().any(|own| own.list == setting.list);
        let mut seen: Vec<&Setting<'n>> = outer.iter().copied().filter(|setting| !is_own(setting)).collect();
        for setting in &seen {
            if self.comes_down(setting, context) {
                setting.nodes.iter().for_each(|node| self.directive(node, depth, "inherited from "));
            }
        }
        seen.extend(&own);
        for node in nodes {
            if node.block.is_none() {
                self.directive(node, depth, self.remark(node, context));
                continue;
            }
            self.head(node, depth);
            self.out.push_str(" { # ");
            self.out.push_str(&self.places.name(node.span));
            self.out.push('\n');
            match (self.find)(&node.name.text, context).and_then(|row| row.inside(context)) {
                Some(inside) => self.block(node.children(), inside, &seen, depth + 1),
                None => self.data(node, depth + 1),
            }
            self.out.push_str(&INDENT.repeat(depth));
            self.out.push_str("}\n");
        }
    }

    /// Writes the content of a block of data: `map`, `types`.
    fn data(&mut self, block: &Node, depth: usize) {
        for node in block.children() {
            self.directive(node, depth, "");
            self.data(node, depth + 1);
        }
        if let Some(Block::Data(rows)) = &block.block {
            for Entry { name, args, span } in rows.iter() {
                self.words(std::iter::once(name.text).chain(args.iter().map(|arg| arg.text)), depth);
                self.end(span, "");
            }
        }
    }

    fn comes_down(&self, setting: &Setting<'_>, context: Context) -> bool {
        let name = &setting.nodes[0].name.text;
        let (Some(above), Some(here)) = ((self.find)(name, setting.context), (self.find)(name, context))
        else {
            return false;
        };
        let has_value = |row: &RowInfo| !matches!(row.shape, Shape::Block | Shape::Accepted(_));
        let is_inherited = match here.inherits {
            Inherits::Everywhere | Inherits::List(_) => true,
            Inherits::Conditional => Context::CONDITIONAL.contains(context),
            Inherits::Nowhere => false,
        };
        has_value(&above) && has_value(&here) && is_inherited
    }

    /// The list that a directive belongs to: its own name, unless its row names another.
    fn list_of<'n>(&self, node: &'n Node, context: Context) -> &'n str {
        match (self.find)(&node.name.text, context).map(|row| row.inherits) {
            Some(Inherits::List(list)) => list,
            _ => &node.name.text,
        }
    }

    fn remark(&self, node: &Node, context: Context) -> &'static str {
        match (self.find)(&node.name.text, context).map(|row| row.shape) {
            Some(Shape::Accepted(_)) => "without effect, ",
            _ => "",
        }
    }

    fn directive(&mut self, node: &Node, depth: usize, remark: &str) {
        self.head(node, depth);
        self.end(node.span, remark);
        if let Some(remark) = node.args.first().and_then(|word| (self.remark)(word.span)) {
            self.out.truncate(self.out.trim_end().len());
            self.out.push_str(", ");
            self.out.push_str(&remark);
            self.out.push('\n');
        }
    }

    fn end(&mut self, span: Span, remark: &str) {
        self.out.push_str("; # ");
        self.out.push_str(remark);
        self.out.push_str(&self.places.name(span));
        self.out.push('\n');
    }

    fn head(&mut self, node: &Node, depth: usize) {
        self.words(std::iter::once(&*node.name.text).chain(node.args.iter().map(|arg| &*arg.text)), depth);
    }

    fn words<'w>(&mut self, words: impl Iterator<Item = &'w str>, depth: usize) {
        self.out.push_str(&INDENT.repeat(depth));
        for (index, word) in words.enumerate() {
            if index > 0 {
                self.out.push(' ');
            }
            nginx_word(&mut self.out, word);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::directive::{Accepted, accepted, block, custom, flag};
    use crate::config::{Arity, Diagnostics, Directive, Inherit, LoadOptions, load_text};

    type Conf = Inherit<bool>;

    fn ignore(_: &mut Conf, _: &mut Diagnostics, _: &Node) -> Result<(), crate::config::Diagnostic> {
        Ok(())
    }

    const REWRITE: Context =
        Context::SERVER.or(Context::SERVER_IF).or(Context::LOCATION).or(Context::LOCATION_IF);
    const LOCATION: Context = Context::LOCATION.or(Context::LOCATION_IF);

    static ROWS: &[Directive<Conf, Diagnostics>] = &[
        block("http", Context::MAIN, Arity::exactly(0), ignore, "").opens(&[(Context::MAIN, Context::HTTP)]),
        block("server", Context::HTTP, Arity::exactly(0), ignore, "")
            .opens(&[(Context::HTTP, Context::SERVER)]),
        block("map", Context::HTTP, Arity::exactly(2), ignore, ""),
        block("location", Context::SERVER.or(Context::LOCATION), Arity::between(1, 2), ignore, "")
            .opens(&[(Context::SERVER, Context::LOCATION), (Context::LOCATION, Context::LOCATION)]),
        block("if", REWRITE, Arity::at_least(1), ignore, "")
            .opens(&[(Context::LOCATION, Context::LOCATION_IF)]),
        flag("sendfile", Context::ANY.or(LOCATION), |conf| conf, ""),
        custom("add_header", Context::ANY.or(LOCATION), Arity::between(2, 3), ignore, ""),
        custom("allow", Context::ANY, Arity::exactly(1), ignore, "").inherits(Inherits::List("allow")),
        custom("deny", Context::ANY, Arity::exactly(1), ignore, "").inherits(Inherits::List("allow")),
        custom("set", REWRITE, Arity::exactly(2), ignore, "").inherits(Inherits::Nowhere),
        custom("proxy_pass", LOCATION, Arity::exactly(1), ignore, "").inherits(Inherits::Conditional),
        accepted("hash", Context::ANY, Arity::exactly(1), Accepted::Words, ""),
    ];

    #[test]
    fn each_value_names_its_place() {
        let text = "http {
sendfile on; add_header A 1; add_header B 2; deny all; hash 3;
map a b { c d; }
server {
sendfile off; set $a 1;
location / { add_header C 'x y'; proxy_pass b;
location /in { allow me; }
if ($a) { set $b 1; } } } }";
        let (tree, _) = load_text("t", text, &LoadOptions::default());
        let find = |name: &str, context| {
            let row = ROWS.iter().find(|row| row.name == name && row.contexts.contains(context))?;
            Some(row.info("", Inherits::Everywhere, &mut Conf::default()))
        };
        let expected = "http { # t:1
    sendfile on; # t:2
    add_header A 1; # t:2
    add_header B 2; # t:2
    deny all; # t:2
    hash 3; # without effect, t:2
    map a b { # t:3
        c d; # t:3
    }
    server { # t:4
        add_header A 1; # inherited from t:2
        add_header B 2; # inherited from t:2
        deny all; # inherited from t:2
        sendfile off; # t:5
        set $a 1; # t:5
        location / { # t:6
            deny all; # inherited from t:2
            sendfile off; # inherited from t:5
            add_header C \"x y\"; # t:6
            proxy_pass b; # t:6
            location /in { # t:7
                sendfile off; # inherited from t:5
                add_header C \"x y\"; # inherited from t:6
                allow me; # t:7
            }
            if ($a) { # t:8
                sendfile off; # inherited from t:5
                add_header C \"x y\"; # inherited from t:6
                proxy_pass b; # inherited from t:6
                set $b 1; # t:8
            }
        }
    }
}
";
        assert_eq!(effective(&tree, &find, &|_| None), expected);
        let (again, found) = load_text("t", expected, &LoadOptions::default());
        assert!(found.0.is_empty() && again.nodes.len() == 1);
    }
}
