//! The statements that the mock understands.

use super::condition::Condition;
use crate::clickhouse::column_type::ColumnType;
use crate::clickhouse::exception::{Exception, NOT_IMPLEMENTED, SYNTAX_ERROR};
use crate::clickhouse::token::{Token, Tokens, unquote};

/// A table's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableName {
    /// Its database, if it is said.
    pub database: Option<String>,
    /// The name itself.
    pub table: String,
}

/// A statement other than an INSERT.
#[derive(Clone, Debug, PartialEq)]
pub enum Statement {
    /// `SELECT …`.
    Select(Select),
    /// `DESCRIBE TABLE …`.
    Describe(TableName),
    /// `CREATE DATABASE …`.
    CreateDatabase {
        /// Its name.
        name: String,
        /// It may be there.
        if_not_exists: bool,
    },
    /// `DROP DATABASE …`.
    DropDatabase {
        /// Its name.
        name: String,
        /// It may be missing.
        if_exists: bool,
    },
    /// `CREATE TABLE …`.
    CreateTable(CreateTable),
    /// `DROP TABLE …`.
    DropTable {
        /// Its name.
        name: TableName,
        /// It may be missing.
        if_exists: bool,
    },
    /// `TRUNCATE TABLE …`.
    Truncate {
        /// Its name.
        name: TableName,
        /// It may be missing.
        if_exists: bool,
    },
    /// `ALTER TABLE …`.
    Alter {
        /// The table.
        name: TableName,
        /// What is changed, in order.
        changes: Vec<Change>,
    },
    /// `KILL QUERY WHERE query_id …`.
    Kill {
        /// Which: what must hold of its `query_id` and `query`.
        conditions: Vec<Condition>,
        /// Their end is waited for.
        is_waited_for: bool,
    },
}

/// A new table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreateTable {
    /// Its name.
    pub name: TableName,
    /// It may be there.
    pub if_not_exists: bool,
    /// Its columns.
    pub columns: Vec<(String, ColumnType)>,
    /// The engine's name.
    pub engine: String,
    /// The engine's arguments.
    pub arguments: Vec<String>,
    /// The columns of its sorting key.
    pub order_by: Vec<String>,
}

/// A change of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// `ADD COLUMN`.
    Add {
        /// The column.
        column: String,
        /// Its type.
        column_type: ColumnType,
        /// It may be there.
        if_not_exists: bool,
    },
    /// `MODIFY COLUMN`.
    Modify {
        /// The column.
        column: String,
        /// Its new type.
        column_type: ColumnType,
    },
}

/// An INSERT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Insert {
    /// The table.
    pub name: TableName,
    /// The columns that are given; absent: all.
    pub columns: Option<Vec<String>>,
    /// The columns that the data have, where they are converted: those of `input(…)`.
    pub input: Option<Vec<(String, ColumnType)>>,
}

/// A query.
#[derive(Clone, Debug, PartialEq)]
pub struct Select {
    /// What is selected.
    pub expressions: Vec<Expression>,
    /// What it is selected from.
    pub from: Option<TableName>,
    /// Whether each key's newest row counts alone, if it is not deleted.
    pub is_final: bool,
    /// What must hold, all of it.
    pub conditions: Vec<Condition>,
    /// Rows at most.
    pub limit: Option<u64>,
    /// The result's format.
    pub format: Option<String>,
}

/// Something that is selected.
#[derive(Clone, Debug, PartialEq)]
pub enum Expression {
    /// All columns.
    All,
    /// A column.
    Column(String),
    /// `hex(column)`.
    Hex(String),
    /// `count()`.
    Count,
    /// `version()`.
    Version,
    /// A number.
    Number(u64),
    /// A string.
    String(String),
}

/// What the mock understands, for whoever said something else.
const KNOWN: &str = "The mock understands SELECT of columns, hex(column), count(), version() and \
    literals FROM a table [FINAL] [WHERE conditions: column = literal, column IN (literals), \
    position(column, text) > 0, with AND between them, or OR in brackets] [LIMIT n] [FORMAT name], DESCRIBE TABLE, INSERT with columns or input(), CREATE, DROP and TRUNCATE of \
    databases and tables of the MergeTree and ReplacingMergeTree engines, ALTER TABLE ADD and \
    MODIFY COLUMN, KILL QUERY WHERE such conditions on query_id and query";

/// Reads a statement other than an INSERT.
///
/// # Errors
/// It is none that the mock understands.
pub fn statement(text: &[u8]) -> Result<Statement, Exception> {
    let mut parser = Parser { tokens: Tokens::new(text) };
    let statement = parser.statement()?;
    parser.symbol(b';');
    match parser.tokens.next() {
        None => Ok(statement),
        Some(_) => Err(parser.unknown("there is more behind the statement")),
    }
}

/// Reads an INSERT up to its format.
///
/// # Errors
/// It is none that the mock understands.
pub fn insert(text: &[u8]) -> Result<Insert, Exception> {
    let mut parser = Parser { tokens: Tokens::new(text) };
    let insert = parser.insert()?;
    match parser.tokens.next() {
        None => Ok(insert),
        Some(_) => Err(parser.unknown("what stands before FORMAT")),
    }
}

struct Parser<'a> {
    tokens: Tokens<'a>,
}

impl<'a> Parser<'a> {
    fn statement(&mut self) -> Result<Statement, Exception> {
        let Some(Token::Word(verb)) = self.tokens.next() else {
            return Err(syntax("a statement begins with a word"));
        };
        match verb.to_ascii_uppercase().as_slice() {
            b"SELECT" => self.select().map(Statement::Select),
            b"DESCRIBE" | b"DESC" => {
                self.word("TABLE");
                Ok(Statement::Describe(self.table_name()?))
            }
            b"CREATE" => self.create(),
            b"DROP" => self.drop_it(),
            b"TRUNCATE" => {
                self.word("TABLE");
                let if_exists = self.words(&["IF", "EXISTS"])?;
                Ok(Statement::Truncate { name: self.table_name()?, if_exists })
            }
            b"ALTER" => {
                self.expect("TABLE")?;
                let name = self.table_name()?;
                Ok(Statement::Alter { name, changes: self.list(Self::change)? })
            }
            b"KILL" => self.kill(),
            other if KEYWORDS.contains(&other) => Err(self.unknown(&String::from_utf8_lossy(verb))),
            _ => {
                Err(syntax(&format!("no statement begins with {}", String::from_utf8_lossy(verb))))
            }
        }
    }

    fn insert(&mut self) -> Result<Insert, Exception> {
        self.expect("INSERT")?;
        self.word("INTO");
        self.word("TABLE");
        let name = self.table_name()?;
        let columns = match self.symbol(b'(') {
            true => {
                let columns = self.list(Self::name)?;
                self.expect_symbol(b')')?;
                Some(columns)
            }
            false => None,
        };
        let input = match self.word("SELECT") {
            true => Some(self.input()?),
            false => None,
        };
        Ok(Insert { name, columns, input })
    }

    /// `* FROM input('structure')`.
    fn input(&mut self) -> Result<Vec<(String, ColumnType)>, Exception> {
        self.expect_symbol(b'*')?;
        self.expect("FROM")?;
        self.expect("input")?;
        self.expect_symbol(b'(')?;
        let structure = self.string()?;
        self.expect_symbol(b')')?;
        let mut parser = Parser { tokens: Tokens::new(structure.as_bytes()) };
        let columns = parser.list(|parser| Ok((parser.name()?, parser.column_type()?)))?;
        match parser.tokens.next() {
            None => Ok(columns),
            Some(_) => Err(syntax("the structure of input()")),
        }
    }

    fn select(&mut self) -> Result<Select, Exception> {
        let expressions = self.list(Self::expression)?;
        let from = match self.word("FROM") {
            true => Some(self.table_name()?),
            false => None,
        };
        let is_final = self.word("FINAL");
        let conditions = if self.word("WHERE") { self.conditions()? } else { Vec::new() };
        let limit = match self.word("LIMIT") {
            true => Some(self.number()?),
            false => None,
        };
        let format = match self.word("FORMAT") {
            true => Some(self.name()?),
            false => None,
        };
        Ok(Select { expressions, from, is_final, conditions, limit, format })
    }

    fn expression(&mut self) -> Result<Expression, Exception> {
        if self.symbol(b'*') {
            return Ok(Expression::All);
        }
        match self.tokens.peek() {
            Some(Token::Quoted(b'\'', _)) => return self.string().map(Expression::String),
            Some(Token::Word(word)) if word[0].is_ascii_digit() => {
                return self.number().map(Expression::Number);
            }
            _ => {}
        }
        let name = self.name()?;
        if !self.symbol(b'(') {
            return Ok(Expression::Column(name));
        }
        let expression = match name.to_ascii_lowercase().as_str() {
            "count" => Expression::Count,
            "version" => Expression::Version,
            "hex" => Expression::Hex(self.name()?),
            _ => return Err(self.unknown(&format!("the function {name}"))),
        };
        self.expect_symbol(b')')?;
        Ok(expression)
    }

    /// With AND between them.
    fn conditions(&mut self) -> Result<Vec<Condition>, Exception> {
        let mut conditions = vec![self.condition()?];
        while self.word("AND") {
            conditions.push(self.condition()?);
        }
        Ok(conditions)
    }

    fn condition(&mut self) -> Result<Condition, Exception> {
        if self.symbol(b'(') {
            let mut conditions = vec![self.condition()?];
            while self.word("OR") {
                conditions.push(self.condition()?);
            }
            self.expect_symbol(b')')?;
            return Ok(Condition::Any(conditions));
        }
        let column = self.name()?;
        if column == "position" && self.symbol(b'(') {
            return self.position();
        }
        if self.symbol(b'=') {
            return Ok(Condition::In { column, values: vec![self.literal()?] });
        }
        self.expect("IN")?;
        self.expect_symbol(b'(')?;
        let values = self.list(Self::literal)?;
        self.expect_symbol(b')')?;
        Ok(Condition::In { column, values })
    }

    /// `column, text) > 0`.
    fn position(&mut self) -> Result<Condition, Exception> {
        let column = self.name()?;
        self.expect_symbol(b',')?;
        let text = match self.word("concat") {
            true => {
                self.expect_symbol(b'(')?;
                let parts = self.list(Self::string)?;
                self.expect_symbol(b')')?;
                parts.concat()
            }
            false => self.string()?,
        };
        self.expect_symbol(b')')?;
        self.expect_symbol(b'>')?;
        match self.number()? {
            0 => Ok(Condition::Holds { column, text }),
            _ => Err(self.unknown("that comparison of position()")),
        }
    }

    fn create(&mut self) -> Result<Statement, Exception> {
        if self.word("DATABASE") {
            let if_not_exists = self.words(&["IF", "NOT", "EXISTS"])?;
            return Ok(Statement::CreateDatabase { name: self.name()?, if_not_exists });
        }
        self.expect("TABLE")?;
        let if_not_exists = self.words(&["IF", "NOT", "EXISTS"])?;
        let name = self.table_name()?;
        self.expect_symbol(b'(')?;
        let columns = self.list(|parser| Ok((parser.name()?, parser.stored_type()?)))?;
        self.expect_symbol(b')')?;
        self.expect("ENGINE")?;
        self.symbol(b'=');
        let engine = self.name()?;
        let mut arguments = Vec::new();
        if self.symbol(b'(') && !self.symbol(b')') {
            arguments = self.list(Self::name)?;
            self.expect_symbol(b')')?;
        }
        let order_by = self.order_by()?;
        // Settings of tables make no difference here.
        if self.word("SETTINGS") {
            self.list(|parser| {
                parser.name()?;
                parser.expect_symbol(b'=')?;
                parser.literal()
            })?;
        }
        Ok(Statement::CreateTable(CreateTable {
            name,
            if_not_exists,
            columns,
            engine,
            arguments,
            order_by,
        }))
    }

    fn order_by(&mut self) -> Result<Vec<String>, Exception> {
        if !self.words(&["ORDER", "BY"])? {
            return Ok(Vec::new());
        }
        let is_tuple = self.word("tuple");
        if !self.symbol(b'(') {
            return Ok(vec![self.name()?]);
        }
        if is_tuple && self.symbol(b')') {
            return Ok(Vec::new());
        }
        let columns = self.list(Self::name)?;
        self.expect_symbol(b')')?;
        Ok(columns)
    }

    fn drop_it(&mut self) -> Result<Statement, Exception> {
        let is_database = self.word("DATABASE");
        if !is_database {
            self.expect("TABLE")?;
        }
        let if_exists = self.words(&["IF", "EXISTS"])?;
        let dropped = match is_database {
            true => Statement::DropDatabase { name: self.name()?, if_exists },
            false => Statement::DropTable { name: self.table_name()?, if_exists },
        };
        // Here nothing is ever dropped later.
        self.word("SYNC");
        Ok(dropped)
    }

    fn change(&mut self) -> Result<Change, Exception> {
        if self.words(&["ADD", "COLUMN"])? {
            let if_not_exists = self.words(&["IF", "NOT", "EXISTS"])?;
            let (column, column_type) = (self.name()?, self.stored_type()?);
            return Ok(Change::Add { column, column_type, if_not_exists });
        }
        if self.words(&["MODIFY", "COLUMN"])? {
            return Ok(Change::Modify { column: self.name()?, column_type: self.stored_type()? });
        }
        Err(self.unknown("that change of a table"))
    }

    fn kill(&mut self) -> Result<Statement, Exception> {
        self.expect("QUERY")?;
        self.expect("WHERE")?;
        let conditions = self.conditions()?;
        let is_known = |column: &&str| ["query_id", "query"].contains(column);
        if !conditions.iter().flat_map(Condition::columns).all(|column| is_known(&column)) {
            return Err(self.unknown("that condition of KILL QUERY"));
        }
        let is_waited_for = self.word("SYNC");
        if !is_waited_for {
            self.word("ASYNC");
        }
        Ok(Statement::Kill { conditions, is_waited_for })
    }

    /// A column's type and, behind it, how it is compressed, which makes no difference here.
    fn stored_type(&mut self) -> Result<ColumnType, Exception> {
        let column_type = self.column_type()?;
        if self.word("CODEC") {
            self.expect_symbol(b'(')?;
            let mut depth = 1;
            while depth > 0 {
                match self.tokens.next() {
                    Some(Token::Symbol(b'(')) => depth += 1,
                    Some(Token::Symbol(b')')) => depth -= 1,
                    Some(_) => {}
                    None => return Err(syntax("a bracket is never closed")),
                }
            }
        }
        Ok(column_type)
    }

    fn column_type(&mut self) -> Result<ColumnType, Exception> {
        ColumnType::read(&mut self.tokens)
    }

    fn table_name(&mut self) -> Result<TableName, Exception> {
        let first = self.name()?;
        match self.symbol(b'.') {
            true => Ok(TableName { database: Some(first), table: self.name()? }),
            false => Ok(TableName { database: None, table: first }),
        }
    }

    fn list<T>(
        &mut self,
        read: impl Fn(&mut Self) -> Result<T, Exception>,
    ) -> Result<Vec<T>, Exception> {
        let mut items = vec![read(self)?];
        while self.symbol(b',') {
            items.push(read(self)?);
        }
        Ok(items)
    }

    fn name(&mut self) -> Result<String, Exception> {
        let bytes = match self.tokens.next() {
            Some(Token::Word(word)) => word.to_vec(),
            Some(Token::Quoted(quote, text)) if quote != b'\'' => unquote(quote, text),
            _ => return Err(syntax("a name is missing")),
        };
        String::from_utf8(bytes).map_err(|_| syntax("a name is not UTF-8"))
    }

    fn string(&mut self) -> Result<String, Exception> {
        match self.tokens.next() {
            Some(Token::Quoted(b'\'', text)) => {
                String::from_utf8(unquote(b'\'', text)).map_err(|_| syntax("a string is not UTF-8"))
            }
            _ => Err(syntax("a string is missing")),
        }
    }

    fn number(&mut self) -> Result<u64, Exception> {
        let number = match self.tokens.next() {
            Some(Token::Word(digits)) => std::str::from_utf8(digits).ok(),
            _ => None,
        };
        number.and_then(|text| text.parse().ok()).ok_or_else(|| syntax("a number is missing"))
    }

    /// A literal's text.
    fn literal(&mut self) -> Result<String, Exception> {
        if let Some(Token::Quoted(b'\'', _)) = self.tokens.peek() {
            return self.string();
        }
        let sign = if self.symbol(b'-') { "-" } else { "" };
        match self.tokens.next() {
            Some(Token::Word(word)) => Ok(format!("{sign}{}", String::from_utf8_lossy(word))),
            _ => Err(syntax("a literal is missing")),
        }
    }

    /// Takes a word, if it comes.
    fn word(&mut self, keyword: &str) -> bool {
        let comes = self.tokens.peek().is_some_and(|token| token.is(keyword));
        if comes {
            self.tokens.next();
        }
        comes
    }

    /// Takes several, if the first of them comes: then the others must.
    fn words(&mut self, keywords: &[&str]) -> Result<bool, Exception> {
        let Some((first, others)) = keywords.split_first() else { return Ok(true) };
        if !self.word(first) {
            return Ok(false);
        }
        others.iter().try_for_each(|keyword| self.expect(keyword))?;
        Ok(true)
    }

    fn expect(&mut self, keyword: &str) -> Result<(), Exception> {
        match self.word(keyword) {
            true => Ok(()),
            false => Err(self.unexpected(keyword)),
        }
    }

    /// Takes a symbol, if it comes.
    fn symbol(&mut self, symbol: u8) -> bool {
        let comes = self.tokens.peek() == Some(Token::Symbol(symbol));
        if comes {
            self.tokens.next();
        }
        comes
    }

    fn expect_symbol(&mut self, symbol: u8) -> Result<(), Exception> {
        match self.symbol(symbol) {
            true => Ok(()),
            false => Err(self.unexpected(&char::from(symbol).to_string())),
        }
    }

    fn unexpected(&mut self, expected: &str) -> Exception {
        let at = self.tokens.at();
        syntax(&format!("failed at position {at}: expected {expected}"))
    }

    fn unknown(&mut self, what: &str) -> Exception {
        Exception::new(NOT_IMPLEMENTED, format!("Not known to the mock: {what}. {KNOWN}"))
    }
}

/// What other statements begin with.
const KEYWORDS: [&[u8]; 22] = [
    b"ALTER",
    b"ATTACH",
    b"BACKUP",
    b"CHECK",
    b"DELETE",
    b"DETACH",
    b"EXCHANGE",
    b"EXISTS",
    b"EXPLAIN",
    b"GRANT",
    b"INSERT",
    b"MOVE",
    b"OPTIMIZE",
    b"RENAME",
    b"RESTORE",
    b"REVOKE",
    b"SET",
    b"SHOW",
    b"SYSTEM",
    b"UPDATE",
    b"USE",
    b"WITH",
];

fn syntax(what: &str) -> Exception {
    Exception::new(SYNTAX_ERROR, format!("Syntax error: {what}. {KNOWN}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clickhouse::ddl::Place;
    use crate::clickhouse::version::Version;
    use crate::rowbinary::{BinaryForm, Codec, Column, Table};

    fn code(text: &str) -> i32 {
        statement(text.as_bytes()).unwrap_err().code
    }

    fn name(database: Option<&str>, table: &str) -> TableName {
        TableName { database: database.map(Into::into), table: table.into() }
    }

    #[test]
    fn what_our_sink_says_is_understood() {
        let text = |form| Codec::Text(form);
        let column = |name: &str, codec, nullable, key| Column {
            name: name.into(),
            codec,
            nullable,
            key,
            loses_null: false,
            type_name: "t".into(),
        };
        let columns = vec![
            column("id", Codec::Uuid, false, true),
            column("odd `name\\", text(BinaryForm::Text), true, true),
            column("created_at", Codec::Timestamp, false, false),
            column(
                "tags",
                Codec::Array { element: Box::new(text(BinaryForm::Text)), delimiter: b',' },
                false,
                false,
            ),
        ];
        let table = Table { name: "s.t".into(), columns, clamps: false };
        let place =
            Place { database: "d".into(), version: Version { major: 26, minor: 3 }, cluster: None };
        let parsed = statement(place.create_table(&table)[0].as_bytes()).unwrap();
        let Statement::CreateTable(parsed) = parsed else { panic!("{parsed:?}") };
        assert_eq!(parsed.name, name(Some("d"), "s.t"));
        assert_eq!((parsed.engine.as_str(), parsed.if_not_exists), ("ReplacingMergeTree", true));
        assert_eq!(parsed.arguments, ["_version", "_is_deleted"]);
        assert_eq!(parsed.order_by, ["id", "odd `name\\"]);
        let columns: Vec<String> =
            parsed.columns.iter().map(|(name, kind)| format!("{name} {kind}")).collect();
        assert_eq!(
            columns,
            [
                "id UUID",
                "odd `name\\ Nullable(String)",
                "created_at DateTime64(6, 'UTC')",
                "tags Array(Nullable(String))",
                "_version UInt64",
                "_is_deleted UInt8"
            ]
        );
        for sql in [place.create_database(), place.truncate(&table)] {
            statement(sql.as_bytes()).unwrap();
        }
        let added = statement(place.add_column(&table, &table.columns[2])[0].as_bytes()).unwrap();
        assert!(matches!(added, Statement::Alter { changes, .. } if changes.len() == 1));
        let sql = place.insert(&table).replace(" FORMAT RowBinary", "");
        let parsed = insert(sql.as_bytes()).unwrap();
        assert_eq!(parsed.columns.unwrap()[1], "odd `name\\");
    }

    #[test]
    fn inserts_may_convert() {
        let sql = r"INSERT INTO `d`.`t` (`a`, _version) SELECT * FROM input('`a\'b` Int16, _version UInt64')";
        let parsed = insert(sql.as_bytes()).unwrap();
        let columns = parsed.input.unwrap();
        assert_eq!(columns[0], ("a'b".into(), ColumnType::Int(16)));
        assert_eq!(columns.len(), 2);
        assert_eq!(insert(b"INSERT INTO t").unwrap().columns, None);
        assert_eq!(insert(b"INSERT INTO t SELECT a FROM input('a Int16')").unwrap_err().code, 62);
    }

    #[test]
    fn queries_are_read() {
        let sql = "select hex(name), count(), 1, 'x', version() FROM system.columns FINAL \
                   WHERE database = 'd' AND table IN ('a', 'it\\'s') AND n = -1 LIMIT 5 FORMAT CSV;";
        let Statement::Select(select) = statement(sql.as_bytes()).unwrap() else { panic!() };
        assert_eq!(select.from, Some(name(Some("system"), "columns")));
        assert!(select.is_final);
        let one_of = |column: &str, values: &[&str]| Condition::In {
            column: column.into(),
            values: values.iter().map(|value| (*value).into()).collect(),
        };
        assert_eq!(select.conditions[1], one_of("table", &["a", "it's"]));
        assert_eq!(select.conditions[2], one_of("n", &["-1"]));
        assert_eq!((select.limit, select.format.as_deref()), (Some(5), Some("CSV")));
        assert_eq!(select.expressions.len(), 5);
    }

    #[test]
    fn queries_are_killed_by_their_ids_and_texts() {
        let kill = |sql: &str| match statement(sql.as_bytes()).unwrap() {
            Statement::Kill { conditions, is_waited_for } => (conditions, is_waited_for),
            other => panic!("{other:?}"),
        };
        let (conditions, is_waited_for) = kill("KILL QUERY WHERE query_id IN ('a', 'b') SYNC");
        let values = vec!["a".into(), "b".into()];
        assert_eq!(conditions, [Condition::In { column: "query_id".into(), values }]);
        assert!(is_waited_for && !kill("KILL QUERY WHERE query_id = 'a'").1);
        let sql = "KILL QUERY WHERE (position(query, concat('/* wal', 'bench-', 'w */')) > 0 OR \
                   position(query, 'x') > 0) ASYNC";
        let holds = |text: &str| Condition::Holds { column: "query".into(), text: text.into() };
        let any = Condition::Any(vec![holds("/* walbench-w */"), holds("x")]);
        assert_eq!(kill(sql), (vec![any], false));
    }

    #[test]
    fn all_else_is_refused_and_says_what_is_known() {
        for (sql, expected) in [
            ("", 62),
            ("SELEC 1", 62),
            ("SELECT", 62),
            ("SELECT a +", 48),
            ("SELECT sum(a) FROM t", 48),
            ("SELECT a FROM t GROUP BY a", 48),
            ("SHOW TABLES", 48),
            ("OPTIMIZE TABLE t FINAL", 48),
            ("ALTER TABLE t DROP COLUMN a", 48),
            ("CREATE TABLE t (a Strin) ENGINE = Memory", 50),
            ("KILL QUERY WHERE user = 'x'", 48),
        ] {
            assert_eq!(code(sql), expected, "{sql}");
        }
        let said = statement(b"SHOW TABLES").unwrap_err().message;
        assert!(said.contains("The mock understands SELECT"), "{said}");
    }
}
