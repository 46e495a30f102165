package data

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strings"
)

// Bounds of what is read in one piece.
const (
	maxLineBytes = 64 << 20 // a JSONL record
	maxTextBytes = 1 << 30  // a .txt file
	chunkBytes   = 1 << 20  // lines that one goroutine encodes at a time
	chunkLines   = 512
)

// task is what one goroutine encodes at a time: some lines of a JSONL file, or
// one text file.
type task struct {
	source int
	file   string
	lines  []line
	text   []byte // of a .txt file
	// holdOut numbers the text files of a source, from 1, so that what is held
	// out stands at another place in each.
	holdOut int
	result  chan result
}

type line struct {
	number int // in the file, from 1
	bytes  []byte
}

// expand lists the files of a source in the order in which they are read.
func (s Source) expand() ([]string, error) {
	if !strings.ContainsAny(s.Path, "*?[") {
		return []string{s.Path}, nil
	}
	if _, err := os.Stat(s.Path); err == nil {
		return []string{s.Path}, nil // a file whose name looks like a pattern
	}
	files, err := filepath.Glob(s.Path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.Path, err)
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%s: no file matches", s.Path)
	}
	sort.Strings(files)
	return files, nil
}

// readSource sends a source's tasks in order. Records that belong to the other
// part are left out here, so that they cost no encoding; a text file's pieces
// are told apart after encoding.
func (o *Options) readSource(ctx context.Context, source int, send func(task) error) error {
	files, err := o.Sources[source].expand()
	if err != nil {
		return err
	}
	var index int64
	for i, file := range files {
		if err := ctx.Err(); err != nil {
			return err
		}
		if strings.EqualFold(filepath.Ext(file), ".txt") {
			err = o.readText(source, file, i, send)
		} else {
			err = o.readLines(source, file, &index, send)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (o *Options) readText(source int, file string, i int, send func(task) error) error {
	if format := o.Sources[source].Format; format != Text {
		return fmt.Errorf("%s: a .txt file has format text, not %s", file, format)
	}
	f, err := open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxTextBytes+1))
	if err != nil {
		return fmt.Errorf("read %s: %w", file, err)
	}
	if len(text) > maxTextBytes {
		return fmt.Errorf("%s: more than %d bytes of text: split the file", file, maxTextBytes)
	}
	return send(task{source: source, file: file, text: trimBOM(text), holdOut: i + 1})
}

// readLines cuts a JSONL file into tasks. index counts the source's records.
func (o *Options) readLines(source int, file string, index *int64, send func(task) error) error {
	f, err := open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	r := bufio.NewReaderSize(f, chunkBytes)
	t := task{source: source, file: file}
	held := 0
	for number := 1; ; number++ {
		b, err := readLine(r)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("%s:%d: %w", file, number, err)
		}
		if number == 1 {
			b = trimBOM(b)
		}
		if b = bytes.TrimSpace(b); len(b) == 0 {
			continue
		}
		wanted := o.wants(source, 0, *index)
		*index++
		if !wanted {
			continue
		}
		t.lines = append(t.lines, line{number, b})
		if held += len(b); held >= chunkBytes || len(t.lines) >= chunkLines {
			if err := send(t); err != nil {
				return err
			}
			t, held = task{source: source, file: file}, 0
		}
	}
	if len(t.lines) == 0 {
		return nil
	}
	return send(t)
}

// wants tells whether the i-th record of a source, or piece of its file-th text
// file, belongs to the part that is read.
func (o *Options) wants(source, file int, i int64) bool {
	if o.HoldOut == 0 || o.Part == "" {
		return true
	}
	return heldOut(o.Seed, uint64(source)<<32|uint64(file), o.HoldOut, i) == (o.Part == Held)
}

// readLine returns the next line in memory of its own, without its end, or
// io.EOF when there is none.
func readLine(r *bufio.Reader) ([]byte, error) {
	var b []byte
	for {
		part, err := r.ReadSlice('\n')
		b = append(b, part...)
		if len(b) > maxLineBytes {
			return nil, fmt.Errorf("a line of more than %d bytes", maxLineBytes)
		}
		switch {
		case err == nil:
			return b[:len(b)-1], nil
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF) && len(b) > 0:
			return b, nil
		default:
			return nil, err
		}
	}
}

// open opens a regular file: a folder's error would come late and say little.
func open(file string) (*os.File, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, fmt.Errorf("open data: %w", err)
	}
	if info.IsDir() {
		return nil, fmt.Errorf("open data: %s is a folder: name files, or a pattern such as %s", file, filepath.Join(file, "*.jsonl"))
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("open data: %w", err)
	}
	return f, nil
}

// trimBOM drops the byte order mark that some editors write.
func trimBOM(b []byte) []byte { return bytes.TrimPrefix(b, []byte("\xef\xbb\xbf")) }
