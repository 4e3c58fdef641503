//! Parquet, as Hugging Face's data sets are stored: row by row into the same records as JSON lines.

use std::{
    fs::File,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use parquet::{
    errors::ParquetError,
    file::{reader::FileReader, serialized_reader::SerializedFileReader},
    record::{Field, Row},
};
use serde_json::{Map, Number, Value};

use super::{Answers, Columns, DataError, Place, Problem};

/// The first bytes of every Parquet file.
pub(super) const MAGIC: &[u8] = b"PAR1";

/// Reads the first `n` problems of the Parquet file at `path`, or all of them, in order.
///
/// # Errors
///
/// A file that cannot be read, is cut off or damaged, or holds no row; a row that holds no problem as `columns` and
/// `answers` want it.
pub fn read_parquet(
    path: &str,
    columns: &Columns,
    answers: Answers,
    n: Option<usize>,
) -> Result<Vec<Problem>, DataError> {
    // The reader takes some damage, such as a negative length, for its own mistake and panics.
    let read = catch_unwind(AssertUnwindSafe(|| read_whole(path, columns, answers, n)));
    read.unwrap_or_else(|_| {
        let reason = "is no whole Parquet file: its lengths or offsets are damaged".to_owned();
        Err(DataError::File { path: path.to_owned(), reason })
    })
}

/// The same of a file whose damage the reader sees.
fn read_whole(
    path: &str,
    columns: &Columns,
    answers: Answers,
    n: Option<usize>,
) -> Result<Vec<Problem>, DataError> {
    let file_error = |reason: String| DataError::File { path: path.to_owned(), reason };
    let damaged = |error: ParquetError| file_error(format!("is no whole Parquet file: {}", said(&error)));
    let file = File::open(path).map_err(|error| DataError::unreadable(path, &error))?;
    let reader = SerializedFileReader::new(file).map_err(damaged)?;
    let name: Arc<str> = path.into();
    let mut problems: Vec<Problem> = Vec::new();
    for group in 0..reader.num_row_groups() {
        let place = |row: usize| Place::Row { file: Arc::clone(&name), group, row };
        let unreadable = |row: usize, error: &ParquetError| DataError::Problem {
            place: place(row),
            reason: format!("can not be read: {}", said(error)),
        };
        let wanted = n.unwrap_or(usize::MAX) - problems.len();
        let first = problems.len();
        let rows = reader.get_row_group(group).map_err(|error| unreadable(first, &error))?;
        let promised = usize::try_from(rows.metadata().num_rows()).unwrap_or_default();
        let found = rows.get_row_iter(None).map_err(|error| unreadable(first, &error))?;
        for row in found.take(wanted) {
            let at = problems.len();
            let record = record(&row.map_err(|error| unreadable(at, &error))?);
            let problem = columns.problem(&record, answers, at as u64, place(at));
            problems.push(problem.map_err(|reason| DataError::Problem { place: place(at), reason })?);
        }
        let got = problems.len() - first;
        if got < promised.min(wanted) {
            let reason = format!("is the end of a row group that should have {promised} rows, but has {got}");
            return Err(DataError::Problem { place: place(problems.len()), reason });
        }
    }
    if problems.is_empty() {
        return Err(file_error("holds no row".into()));
    }
    Ok(problems)
}

/// What the reader said, in one line and without its own name.
fn said(error: &ParquetError) -> String {
    let text = error.to_string();
    let text = text.lines().next().unwrap_or_default();
    let reason = text.split_once(": ").map_or(text, |(_, reason)| reason);
    match reason.strip_prefix("Disabled feature at compile time: ") {
        Some(codec) => {
            format!("it is compressed with {codec}; write it with snappy, zstd, gzip, lz4, or none")
        }
        None => reason.to_owned(),
    }
}

fn record(row: &Row) -> Map<String, Value> {
    row.get_column_iter().map(|(name, field)| (name.clone(), value(field))).collect()
}

/// A field as JSON; bytes that are text are text, and what JSON has no word for is written as it is printed.
fn value(field: &Field) -> Value {
    let float = |x: f64| Number::from_f64(x).map_or(Value::Null, Value::Number);
    match field {
        Field::Null => Value::Null,
        Field::Bool(x) => (*x).into(),
        Field::Byte(x) => (*x).into(),
        Field::Short(x) => (*x).into(),
        Field::Int(x) => (*x).into(),
        Field::Long(x) => (*x).into(),
        Field::UByte(x) => (*x).into(),
        Field::UShort(x) => (*x).into(),
        Field::UInt(x) => (*x).into(),
        Field::ULong(x) => (*x).into(),
        Field::Float(x) => float((*x).into()),
        Field::Double(x) => float(*x),
        Field::Str(text) => text.as_str().into(),
        Field::Bytes(bytes) => match std::str::from_utf8(bytes.data()) {
            Ok(text) => text.into(),
            Err(_) => bytes.data().into(),
        },
        Field::Group(row) => Value::Object(record(row)),
        Field::ListInternal(list) => list.elements().iter().map(value).collect(),
        Field::MapInternal(map) => {
            let entry = |(key, of): &(Field, Field)| {
                let key = value(key).as_str().map_or_else(|| key.to_string(), str::to_owned);
                (key, value(of))
            };
            Value::Object(map.entries().iter().map(entry).collect())
        }
        other => other.to_string().into(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use parquet::{
        basic::Compression,
        data_type::{ByteArray, ByteArrayType, Int64Type},
        file::{properties::WriterProperties, writer::SerializedFileWriter},
        schema::parser::parse_message_type,
    };
    use proptest::prelude::*;

    use super::*;

    /// Writes a column of optional texts, three rows a row group.
    fn write(path: &Path, columns: [&str; 2], rows: &[[Option<&str>; 2]], compression: Compression) {
        let [first, second] = columns;
        let schema = format!(
            "message m {{ OPTIONAL BYTE_ARRAY {first} (UTF8); OPTIONAL BYTE_ARRAY {second} (UTF8); }}"
        );
        let schema = Arc::new(parse_message_type(&schema).unwrap());
        let how = Arc::new(WriterProperties::builder().set_compression(compression).build());
        let mut file = SerializedFileWriter::new(File::create(path).unwrap(), schema, how).unwrap();
        for rows in rows.chunks(3) {
            let mut group = file.next_row_group().unwrap();
            for column in 0..2 {
                let values = rows.iter().filter_map(|row| row[column]).map(ByteArray::from);
                let levels: Vec<i16> = rows.iter().map(|row| i16::from(row[column].is_some())).collect();
                let mut writer = group.next_column().unwrap().unwrap();
                let typed = writer.typed::<ByteArrayType>();
                typed.write_batch(&values.collect::<Vec<_>>(), Some(&levels), None).unwrap();
                writer.close().unwrap();
            }
            group.close().unwrap();
        }
        file.close().unwrap();
    }

    fn five(compression: Compression) -> (tempfile::TempDir, String) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data.parquet");
        let rows: Vec<_> = ["#### 0", "#### 1", "#### 2", "#### 3", "#### 4"]
            .map(|answer| [Some("q"), Some(answer)])
            .to_vec();
        write(&path, ["question", "answer"], &rows, compression);
        let path = path.to_str().unwrap().to_owned();
        (dir, path)
    }

    fn read(path: &str) -> Result<Vec<Problem>, String> {
        let problems = read_parquet(path, &Columns::default(), Answers::Numbered, None);
        problems.map_err(|error| error.to_string().replace(path, "data.parquet"))
    }

    #[test]
    fn rows_of_all_groups_come_in_their_order() {
        for compression in [
            Compression::UNCOMPRESSED,
            Compression::SNAPPY,
            Compression::ZSTD(Default::default()),
            Compression::GZIP(Default::default()),
            Compression::LZ4,
            Compression::LZ4_RAW,
        ] {
            let (_dir, path) = five(compression);
            let problems = read(&path).unwrap();
            let truths: Vec<&str> = problems.iter().map(|problem| problem.truth.as_str()).collect();
            assert_eq!(truths, ["0", "1", "2", "3", "4"]);
            assert_eq!(problems[4].place.to_string(), format!("{path}: row 4 (row group 1)"));
            let four = read_parquet(&path, &Columns::default(), Answers::Numbered, Some(4)).unwrap();
            assert_eq!(four, problems[..4]);
        }
    }

    #[test]
    fn nulls_and_missing_columns_are_named_with_their_row() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data.parquet");
        let rows = [
            [Some("q"), Some("#### 1")],
            [Some("q"), Some("#### 1")],
            [Some("q"), None],
            [None, Some("#### 1")],
        ];
        write(&path, ["question", "answer"], &rows, Compression::SNAPPY);
        let path = path.to_str().unwrap();
        let error = read(path).unwrap_err();
        assert_eq!(error, "data.parquet: row 2 (row group 0): `answer` should be a string, found null");
        write(Path::new(path), ["question", "solution"], &rows[..1], Compression::SNAPPY);
        let error = read(path).unwrap_err();
        assert!(
            error.contains("row 0 (row group 0): lacks the field `answer`; found `question`, `solution`"),
            "{error}"
        );
    }

    #[test]
    fn a_compression_that_is_not_read_is_named_with_those_that_are() {
        // As pyarrow writes one row with Brotli.
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/files/brotli.parquet");
        let error = read(path.to_str().unwrap()).unwrap_err();
        assert!(error.contains("compressed with brotli; write it with snappy, zstd, gzip"), "{error}");
    }

    #[test]
    fn files_of_pyarrow_are_read() {
        // Gzip, pages of version 2, one dictionary and one large string.
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/files/pyarrow.parquet");
        let problems = read(path.to_str().unwrap()).unwrap();
        let found: Vec<_> =
            problems.iter().map(|problem| (&problem.question[..], &problem.truth[..])).collect();
        assert_eq!(found, [("one and two", "3"), ("two and two", "4")]);
    }

    #[test]
    fn numbers_where_text_should_be_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data.parquet");
        let schema = "message m { REQUIRED BYTE_ARRAY question (UTF8); REQUIRED INT64 answer; }";
        let schema = Arc::new(parse_message_type(schema).unwrap());
        let mut file =
            SerializedFileWriter::new(File::create(&path).unwrap(), schema, Arc::default()).unwrap();
        let mut group = file.next_row_group().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<ByteArrayType>().write_batch(&["q".into()], None, None).unwrap();
        column.close().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<Int64Type>().write_batch(&[4], None, None).unwrap();
        column.close().unwrap();
        group.close().unwrap();
        file.close().unwrap();
        let error = read(path.to_str().unwrap()).unwrap_err();
        assert_eq!(error, "data.parquet: row 0 (row group 0): `answer` should be a string, found a number");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn a_file_that_is_cut_off_is_refused_and_a_damaged_one_never_panics(cut in 0.0..1.0_f64, at in 0.0..1.0_f64, byte: u8) {
            let (_dir, path) = five(Compression::SNAPPY);
            let whole = std::fs::read(&path).unwrap();
            std::fs::write(&path, &whole[..(cut * whole.len() as f64) as usize]).unwrap();
            let error = read(&path).unwrap_err();
            prop_assert!(error.starts_with("data.parquet: is no whole Parquet file: ") && !error.contains('\n'), "{}", error);
            let mut damaged = whole.clone();
            damaged[(at * whole.len() as f64) as usize] = byte;
            std::fs::write(&path, damaged).unwrap();
            let _ = read(&path);
        }
    }
}
