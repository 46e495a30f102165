package coordinator

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
)

// lines is a file of lines that only grows: each is there whole or not at all.
type lines struct {
	file  *os.File
	bytes int64
}

// openLines opens a file of lines for appending, after telling of each. A last line without its end, which a coordinator
// was writing when it was killed, was never acknowledged and is cut off.
func openLines(path string, each func([]byte) error) (*lines, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open record: %w", err)
	}
	l := &lines{file: f}
	in := bufio.NewReader(f)
	for number := 1; ; number++ {
		line, err := in.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil {
			err = each(line)
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("read %s:%d: %w", path, number, err), f.Close())
		}
		l.bytes += int64(len(line))
	}
	if err := f.Truncate(l.bytes); err != nil {
		return nil, errors.Join(fmt.Errorf("cut off the last line of %s: %w", path, err), f.Close())
	}
	return l, nil
}

// add writes a line. Of one that the disk has no room for, nothing stays.
func (l *lines) add(line []byte) error {
	n, err := l.file.Write(append(line, '\n'))
	if err != nil {
		if n > 0 {
			err = errors.Join(err, l.file.Truncate(l.bytes))
		}
		return err
	}
	l.bytes += int64(n)
	return nil
}

func (l *lines) close() error { return l.file.Close() }

// number is a float64 whose JSON is null when it is not finite, which JSON has no number for.
type number float64

func (n number) MarshalJSON() ([]byte, error) {
	if f := float64(n); !math.IsNaN(f) && !math.IsInf(f, 0) {
		return json.Marshal(f)
	}
	return []byte("null"), nil
}
