// Package tensorboard writes scalars as TensorBoard reads them.
//
// A file is a sequence of TFRecords, each
//
//	length u64 | masked CRC-32C of the length u32 | data | masked CRC-32C of the data u32
//
// little-endian, and each record's data is a tensorflow.Event: 1 wall_time double, 2 step int64, 3 file_version
// string, 5 summary; a Summary's field 1 are values: 1 tag string, 2 simple_value float. The first event holds the
// version "brain.Event:2" alone.
//
// Source: tensorflow/core/util/event.proto, tensorflow/core/lib/io/record_writer.cc.
package tensorboard

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
)

const fileVersion = "brain.Event:2"

// Writer writes one file. Its methods are for one goroutine.
type Writer struct {
	w   io.WriteCloser
	err error
}

// Create makes dir and a new file in it, named as TensorBoard wants. now is in the name and in the first event.
func Create(dir string, now time.Time) (*Writer, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("create tensorboard file: %w", err)
	}
	host, err := os.Hostname()
	if err != nil {
		host = "localhost"
	}
	name := filepath.Join(dir, fmt.Sprintf("events.out.tfevents.%010d.%s.%d", now.Unix(), host, os.Getpid()))
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	if err != nil {
		return nil, fmt.Errorf("create tensorboard file: %w", err)
	}
	return NewWriter(f, now), nil
}

// NewWriter writes the first event to w, which Close closes.
func NewWriter(w io.WriteCloser, now time.Time) *Writer {
	t := &Writer{w: w}
	e := event(now, 0)
	e = protowire.AppendTag(e, 3, protowire.BytesType)
	e = protowire.AppendString(e, fileVersion)
	t.record(e)
	return t
}

// Scalar is one value of a step.
type Scalar struct {
	Tag   string // "train/loss": before the slash is the group
	Value float64
}

// Add writes a step's scalars as one event. An error is kept: every later call and Close return it.
func (t *Writer) Add(now time.Time, step int64, scalars ...Scalar) error {
	var summary []byte
	for _, s := range scalars {
		var v []byte
		v = protowire.AppendTag(v, 1, protowire.BytesType)
		v = protowire.AppendString(v, s.Tag)
		v = protowire.AppendTag(v, 2, protowire.Fixed32Type)
		v = protowire.AppendFixed32(v, math.Float32bits(float32(s.Value)))
		summary = protowire.AppendTag(summary, 1, protowire.BytesType)
		summary = protowire.AppendBytes(summary, v)
	}
	e := event(now, step)
	e = protowire.AppendTag(e, 5, protowire.BytesType)
	e = protowire.AppendBytes(e, summary)
	t.record(e)
	return t.err
}

// Close closes the file.
func (t *Writer) Close() error {
	return errors.Join(t.err, t.w.Close())
}

func event(now time.Time, step int64) []byte {
	var e []byte
	e = protowire.AppendTag(e, 1, protowire.Fixed64Type)
	e = protowire.AppendFixed64(e, math.Float64bits(float64(now.UnixNano())/1e9))
	if step != 0 {
		e = protowire.AppendTag(e, 2, protowire.VarintType)
		e = protowire.AppendVarint(e, uint64(step))
	}
	return e
}

func (t *Writer) record(data []byte) {
	if t.err != nil {
		return
	}
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(data)))
	b = binary.LittleEndian.AppendUint32(b, masked(b))
	b = append(b, data...)
	b = binary.LittleEndian.AppendUint32(b, masked(data))
	if _, err := t.w.Write(b); err != nil { // one write a record: a reader never sees half of one for long
		t.err = fmt.Errorf("write tensorboard event: %w", err)
	}
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// masked is TFRecord's checksum: a CRC of data that holds CRCs would be weak.
func masked(b []byte) uint32 {
	c := crc32.Checksum(b, castagnoli)
	return (c>>15 | c<<17) + 0xa282ead8
}
