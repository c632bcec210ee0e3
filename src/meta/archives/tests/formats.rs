//! Databases of the formats before: what is read of them, and what becomes of them when their writer opens them.

use super::*;

/// Has a database not grow beyond so many pages, or its present size.
fn limit_pages(db: &Connection, most: u32) {
    let set = format!("PRAGMA max_page_count = {most}");
    db.query_row(&set, [], |row| row.get::<_, i64>(0)).unwrap();
}

#[test]
fn a_database_of_the_oldest_format_has_an_empty_archive_until_its_writer_opens_it() {
    let Before { dir, db, record, _home } = Before::new();
    let reader = schema::open_reader(&dir).unwrap();
    let row = record.row;
    assert_eq!(of(&reader, row).unwrap(), []);
    assert_eq!(chunk(&reader, row, 0).unwrap(), None);
    assert_eq!(targets(leftovers(&reader, "", 9).unwrap()), [""; 0]);
    assert_eq!(query::chunks_of(&reader, record.blob_id).unwrap(), Some([1, 2].map(id).to_vec()));
    assert_eq!(archive(&db, row, &place(1, "x"), None, moment(2)).unwrap(), None);
    assert_eq!(drop_chunk(&db, row, id(1), "x", moment(2)).unwrap(), None);
    assert_eq!(brought_back(&db, row, id(1), moment(2)).unwrap(), None);
    forget(&db, "x").unwrap();
    let writer = schema::open_writer(&dir, Durability::Full).unwrap();
    assert!(has_archives(&writer).unwrap() && has_archives(&reader).unwrap());
    begin(&writer, "x", "p", Timestamp(1)).unwrap();
    // By a connection that was opened before there were such tables.
    assert_eq!(targets(leftovers(&reader, "", 9).unwrap()), ["x"]);
    assert_eq!(archive(&writer, row, &place(1, "x"), None, moment(2)).unwrap(), Some("p".to_owned()));
    assert_eq!(of(&reader, row).unwrap(), [row_of(1, "x", false)]);
    assert_eq!(query::last_seq(&reader).unwrap(), 2);
    drop(writer);
    assert!(has_archives(&schema::open_writer(&dir, Durability::Full).unwrap()).unwrap());
    let found: String = reader.query_row("PRAGMA quick_check", [], |row| row.get(0)).unwrap();
    assert_eq!(found, "ok");
}

#[test]
fn a_full_disk_leaves_the_oldest_format_and_deletes_go_on() {
    let Before { dir, db, record, _home } = Before::new();
    limit_pages(&db, 1);
    schema::upgrade(&db).unwrap();
    assert!(!has_archives(&db).unwrap() && db.is_autocommit());
    assert!(schema::is_full(&begin(&db, "x", "p", Timestamp(1)).unwrap_err()));
    apply::delete(&db, "p", Which::Newest, &Conditions::default(), moment(2)).unwrap();
    apply::dropped(&db, &[record.row], moment(3)).unwrap();
    assert!(!has_archives(&db).unwrap());
    // With space again the first object brings the tables.
    limit_pages(&db, 9999);
    begin(&db, "x", "p", Timestamp(1)).unwrap();
    let reader = schema::open_reader(&dir).unwrap();
    assert_eq!(targets(leftovers(&reader, "", 9).unwrap()), ["x"]);
}

#[test]
fn databases_of_other_formats_are_refused() {
    for format in [1, 5] {
        let Before { dir, db, _home, .. } = Before::new();
        db.pragma_update(None, "user_version", format).unwrap();
        for refused in [schema::open_reader(&dir), schema::open_writer(&dir, Durability::Full)] {
            let error = refused.unwrap_err();
            assert!(schema::is_damaged(&error) && !schema::is_lost(&error), "{error}");
        }
    }
}

/// Makes a database one of the format between: not every row had a state there.
fn make_it_the_one_between(db: &Connection) {
    db.execute_batch(
        "DROP TABLE condemned; DROP TABLE reads; DROP TABLE archived_whole; DROP INDEX idx_archive_states_unspread;
         ALTER TABLE archive_states DROP COLUMN generation; ALTER TABLE archive_states DROP COLUMN spread;
         ALTER TABLE archive_leftovers DROP COLUMN path; DELETE FROM archive_states WHERE dropped = 0;
         PRAGMA user_version = 3; VACUUM",
    )
    .unwrap();
}

#[test]
fn a_full_disk_fails_the_opening_of_the_format_between_and_leaves_it_as_it_was() {
    let Before { db, record, _home, .. } = Before::new();
    schema::upgrade(&db).unwrap();
    assert!(archive(&db, record.row, &place(1, "x"), None, moment(2)).unwrap().is_some());
    make_it_the_one_between(&db);
    limit_pages(&db, 1);
    let error = schema::upgrade(&db).unwrap_err();
    assert!(schema::is_full(&error) && !schema::is_damaged(&error), "{error}");
    assert!(db.is_autocommit() && !has_archives(&db).unwrap());
    limit_pages(&db, 9999);
    schema::upgrade(&db).unwrap();
    assert_eq!(of(&db, record.row).unwrap(), [row_of(1, "x", false)]);
}

#[test]
fn a_database_of_the_format_between_gets_what_replicas_tell_each_other_when_its_writer_opens_it() {
    let Before { dir, db, record, _home } = Before::new();
    schema::upgrade(&db).unwrap();
    assert!(archive(&db, record.row, &place(1, "x"), None, moment(2)).unwrap().is_some());
    assert!(drop_chunk(&db, record.row, id(1), "x", moment(3)).unwrap().is_some());
    begin(&db, "y", "p", Timestamp(1)).unwrap();
    assert!(archive(&db, record.row, &place_of_last(2, "z"), None, moment(4)).unwrap().is_some());
    make_it_the_one_between(&db);
    drop(db);
    let db = schema::open_writer(&dir, Durability::Full).unwrap();
    let found = of(&db, record.row).unwrap();
    assert_eq!(found.iter().map(|found| found.dropped).collect::<Vec<_>>(), [true, false]);
    assert!(found.iter().all(|found| (found.generation, found.spread) == (1, false)));
    assert_eq!(leftovers(&db, "", 9).unwrap(), [Leftover { target: "y".to_owned(), path: None }]);
    assert_eq!(unspread(&db, 0, 9).unwrap().len(), 2);
}

fn place_of_last(byte: u8, target: &str) -> Place {
    Place { length: LAST, range: 0..LAST, ..place(byte, target) }
}
