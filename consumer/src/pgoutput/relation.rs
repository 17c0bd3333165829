//! Messages about tables and their types.

use super::cursor::{Cursor, Malformed};

/// A table's `REPLICA IDENTITY`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaIdentity {
    /// The primary key.
    Default,
    /// Nothing.
    Nothing,
    /// The whole row.
    Full,
    /// An index.
    Index,
}

/// A table's description.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relation<'a> {
    /// Its OID, by which rows name it.
    pub id: u32,
    /// Its schema; empty for `pg_catalog`.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// How old rows are identified.
    pub identity: ReplicaIdentity,
    /// Its columns.
    pub columns: Vec<RelationColumn<'a>>,
}

/// A column's description.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelationColumn<'a> {
    /// Part of the replica identity.
    pub key: bool,
    /// Its name.
    pub name: &'a str,
    /// OID of its type.
    pub type_oid: u32,
    /// The type's modifier (precision and scale, length); -1 without.
    pub type_modifier: i32,
}

/// A type's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Type<'a> {
    /// Its OID, by which columns name it; a domain's is its own.
    pub id: u32,
    /// Its schema, a domain's base type's for a domain; empty for `pg_catalog`.
    pub namespace: &'a str,
    /// Its name; a domain's base type's for a domain.
    pub name: &'a str,
}

/// OIDs of tables, still encoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelationIds<'a>(&'a [[u8; 4]]);

impl<'a> Relation<'a> {
    pub(super) fn read(mut cursor: Cursor<'a>) -> Result<Self, Malformed> {
        let id = cursor.u32("relation")?;
        let namespace = cursor.text("relation")?;
        let name = cursor.text("relation")?;
        let identity = match cursor.u8("relation")? {
            b'd' => ReplicaIdentity::Default,
            b'n' => ReplicaIdentity::Nothing,
            b'f' => ReplicaIdentity::Full,
            b'i' => ReplicaIdentity::Index,
            tag => return Err(Malformed::Tag("replica identity", tag.into())),
        };
        let mut columns = Vec::new();
        for _ in 0..cursor.u16("relation")? {
            columns.push(RelationColumn {
                key: cursor.u8("relation")? & 1 == 1,
                name: cursor.text("relation")?,
                type_oid: cursor.u32("relation")?,
                type_modifier: cursor.u32("relation")?.cast_signed(),
            });
        }
        cursor.end()?;
        Ok(Self { id, namespace, name, identity, columns })
    }
}

impl<'a> Type<'a> {
    pub(super) fn read(mut cursor: Cursor<'a>) -> Result<Self, Malformed> {
        let id = cursor.u32("type")?;
        let namespace = cursor.text("type")?;
        let name = cursor.text("type")?;
        cursor.end()?;
        Ok(Self { id, namespace, name })
    }
}

impl<'a> RelationIds<'a> {
    /// `count` OIDs that reach to the message's end.
    pub(super) fn last(cursor: Cursor<'a>, count: u32) -> Result<Self, Malformed> {
        let (ids, rest) = cursor.0.as_chunks::<4>();
        let (ids, more) =
            ids.split_at_checked(count as usize).ok_or(Malformed::Short("truncate"))?;
        match more.as_flattened().len() + rest.len() {
            0 => Ok(Self(ids)),
            bytes => Err(Malformed::Trailing(bytes)),
        }
    }

    /// The OIDs.
    pub fn iter(self) -> impl ExactSizeIterator<Item = u32> + 'a {
        self.0.iter().map(|id| u32::from_be_bytes(*id))
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::Message;
    use super::*;

    #[test]
    fn a_relation_names_its_columns() {
        let bytes = b"R\0\0\0\x07public\0t\0d\0\x02\x01id\0\0\0\0\x14\xff\xff\xff\xff\
                      \0note\0\0\0\0\x19\0\0\0\x09";
        let columns = [(true, "id", 20, -1), (false, "note", 25, 9)];
        let column = |(key, name, type_oid, type_modifier)| RelationColumn {
            key,
            name,
            type_oid,
            type_modifier,
        };
        assert_eq!(
            Message::decode(bytes),
            Ok(Message::Relation(Relation {
                id: 7,
                namespace: "public",
                name: "t",
                identity: ReplicaIdentity::Default,
                columns: columns.map(column).to_vec(),
            }))
        );
    }

    #[test]
    fn every_replica_identity_is_known() {
        let known = [
            (b'd', ReplicaIdentity::Default),
            (b'n', ReplicaIdentity::Nothing),
            (b'f', ReplicaIdentity::Full),
            (b'i', ReplicaIdentity::Index),
        ];
        for (tag, expected) in known {
            let bytes = [b"R\0\0\0\x07\0t\0".as_slice(), &[tag, 0, 0]].concat();
            let Ok(Message::Relation(relation)) = Message::decode(&bytes) else {
                panic!("not a relation");
            };
            assert_eq!((relation.namespace, relation.identity), ("", expected));
        }
        let bytes = b"R\0\0\0\x07\0t\0x\0\0";
        assert_eq!(Message::decode(bytes), Err(Malformed::Tag("replica identity", 'x')));
    }

    #[test]
    fn a_type_has_a_name() {
        let bytes = b"Y\0\0\x40\0\0int4\0";
        let named = Type { id: 16_384, namespace: "", name: "int4" };
        assert_eq!(Message::decode(bytes), Ok(Message::Type(named)));
    }

    #[test]
    fn a_name_that_is_not_utf8_is_refused() {
        assert_eq!(Message::decode(b"Y\0\0\0\x07\0\xff\0"), Err(Malformed::Encoding));
    }
}
