package safetensors

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// FileWriter writes one file that appears whole or not at all. Either Commit or Abort must
// be called; Abort after Commit does nothing, so it can be deferred.
type FileWriter struct {
	*Writer
	path string
	temp *os.File // nil once committed or aborted
	buf  *bufio.Writer
}

// Create starts a file beside path under a temporary name. The elements follow through
// WriteF32 and WriteBytes, as for NewWriter.
func Create(path string, tensors []TensorInfo, metadata map[string]string) (*FileWriter, error) {
	temp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*.part")
	if err != nil {
		return nil, fmt.Errorf("create %s: %w", path, err)
	}
	f := &FileWriter{path: path, temp: temp, buf: bufio.NewWriterSize(temp, 256<<10)}
	if f.Writer, err = NewWriter(f.buf, tensors, metadata); err != nil {
		return nil, errors.Join(fmt.Errorf("create %s: %w", path, err), f.Abort())
	}
	return f, nil
}

// Commit checks that every element was written and makes the file durable under its name:
// the data is on disk before the name is. After an error nothing stands there that did not
// before.
func (f *FileWriter) Commit() error {
	if f.temp == nil {
		return fmt.Errorf("commit %s: %w", f.path, os.ErrClosed)
	}
	if err := f.finish(); err != nil {
		return errors.Join(fmt.Errorf("commit %s: %w", f.path, err), f.Abort())
	}
	f.temp = nil
	if err := syncDir(filepath.Dir(f.path)); err != nil {
		return fmt.Errorf("commit %s: %w", f.path, err)
	}
	return nil
}

func (f *FileWriter) finish() error {
	if err := f.Finish(); err != nil {
		return err
	}
	if err := f.buf.Flush(); err != nil {
		return err
	}
	if err := f.temp.Chmod(0o644); err != nil {
		return err
	}
	if err := f.temp.Sync(); err != nil {
		return err
	}
	if err := f.temp.Close(); err != nil {
		return err
	}
	return os.Rename(f.temp.Name(), f.path)
}

// Abort removes what was written.
func (f *FileWriter) Abort() error {
	if f.temp == nil {
		return nil
	}
	temp := f.temp
	f.temp = nil
	if err := temp.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return errors.Join(err, os.Remove(temp.Name()))
	}
	return os.Remove(temp.Name())
}

// syncDir makes a rename inside dir survive a power cut.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
