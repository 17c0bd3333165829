//! What the catalogue knows of a table and the replication stream does not say.

use super::source_type::SourceType;
use crate::pgoutput::{Relation, RelationColumn, ReplicaIdentity};

/// What the catalogue knows of a column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Its name.
    pub name: String,
    /// `NOT NULL`.
    pub not_null: bool,
    /// Part of the primary key.
    pub primary_key: bool,
    /// Part of the replica identity.
    pub identity: bool,
    /// Published: in the publication's list, and not generated.
    pub published: bool,
    /// OID of its type as declared, which the stream names as well.
    pub type_oid: u32,
    /// The type's modifier.
    pub type_modifier: i32,
    /// The type, resolved.
    pub source: SourceType,
}

/// What the catalogue knows of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableFacts {
    /// Its OID.
    pub oid: u32,
    /// Its schema.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// How old rows are identified.
    pub identity: ReplicaIdentity,
    /// Its columns in their order, published or not.
    pub columns: Vec<Facts>,
}

impl TableFacts {
    /// What is known of a column.
    #[must_use]
    pub fn column(&self, name: &str) -> Option<&Facts> {
        self.columns.iter().find(|column| column.name == name)
    }

    /// The description that the stream will give of the table.
    #[must_use]
    pub fn relation(&self) -> Relation<'_> {
        let published = self.columns.iter().filter(|column| column.published);
        Relation {
            id: self.oid,
            // So does the stream.
            namespace: if self.namespace == "pg_catalog" { "" } else { &self.namespace },
            name: &self.name,
            identity: self.identity,
            columns: published
                .map(|column| RelationColumn {
                    key: column.identity,
                    name: &column.name,
                    type_oid: column.type_oid,
                    type_modifier: column.type_modifier,
                })
                .collect(),
        }
    }
}
