package checkpoint

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"
)

// Store holds objects by key. Keys are slash-separated, as fs.ValidPath has them. Its methods may be called concurrently.
// Package checkpointtest has the tests that every implementation passes.
type Store interface {
	// Put makes an object of what write writes: whole and durable when Put returns nil, invisible otherwise. Putting a
	// key that exists is no error and changes nothing, since keys hold their content's digest. write is called again,
	// from the start, when a store tries again, and not at all for a key that exists.
	Put(ctx context.Context, key string, write func(io.Writer) error) error
	// Open reads an object; the error wraps fs.ErrNotExist when there is none.
	Open(ctx context.Context, key string) (Object, error)
	// List lists what is visible below a prefix, by key.
	List(ctx context.Context, prefix string) ([]Info, error)
	// Delete removes an object; removing what is not there is no error.
	Delete(ctx context.Context, key string) error
}

// Object is an open object. Its methods may be called concurrently, Close last.
type Object interface {
	// ReadAt fills b with what stands from byte off on, or fails: io.ErrUnexpectedEOF if the object ends before. It asks
	// the store for those bytes and no others.
	ReadAt(ctx context.Context, b []byte, off int64) error
	io.Closer
	Bytes() int64
}

// Info is an object's entry in a list.
type Info struct {
	Key      string
	Bytes    int64
	Modified time.Time
}

// Dir is the store in a folder of the file system.
type Dir string

const temporaryPrefix = ".part-"

// Put writes to a temporary file, syncs it, and links it under its name.
func (d Dir) Put(ctx context.Context, key string, write func(io.Writer) error) (err error) {
	path, err := d.path(key)
	if err != nil {
		return err
	}
	if _, err := os.Lstat(path); err == nil {
		return nil
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("put %s: %w", key, err)
	}
	var salt [8]byte
	rand.Read(salt[:])
	name := filepath.Join(dir, temporaryPrefix+hex.EncodeToString(salt[:]))
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("put %s: %w", key, err)
	}
	defer os.Remove(name)
	err = write(contextWriter{ctx, f})
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Link(name, path)
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("put %s: %w", key, err)
	}
	return syncDir(dir)
}

// contextWriter ends a long write when its context ends.
type contextWriter struct {
	ctx context.Context
	w   io.Writer
}

func (w contextWriter) Write(b []byte) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	return w.w.Write(b)
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("sync folder: %w", err)
	}
	defer f.Close()
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync folder: %w", err)
	}
	return nil
}

type file struct {
	*os.File
	bytes int64
}

func (f file) Bytes() int64 { return f.bytes }

func (f file) ReadAt(ctx context.Context, b []byte, off int64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	_, err := f.File.ReadAt(b, off)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// Open opens the object's file.
func (d Dir) Open(_ context.Context, key string) (Object, error) {
	path, err := d.path(key)
	if err != nil {
		return nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", key, err)
	}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("open %s: %w", key, err)
	}
	return file{f, info.Size()}, nil
}

// List walks the folder; temporary files are not objects.
func (d Dir) List(_ context.Context, prefix string) ([]Info, error) {
	var list []Info
	err := d.walk(func(key string, info fs.FileInfo) {
		if strings.HasPrefix(key, prefix) && !strings.HasPrefix(filepath.Base(key), temporaryPrefix) {
			list = append(list, Info{Key: key, Bytes: info.Size(), Modified: info.ModTime()})
		}
	})
	sort.Slice(list, func(i, j int) bool { return list[i].Key < list[j].Key })
	return list, err
}

func (d Dir) walk(visit func(key string, info fs.FileInfo)) error {
	err := filepath.WalkDir(string(d), func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed while walking, or no checkpoint yet
		}
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		key, err := filepath.Rel(string(d), path)
		if err != nil {
			return err
		}
		visit(filepath.ToSlash(key), info)
		return nil
	})
	if err != nil {
		return fmt.Errorf("list %s: %w", string(d), err)
	}
	return nil
}

// Delete removes the object's file, and its folder when that was the last one.
func (d Dir) Delete(_ context.Context, key string) error {
	path, err := d.path(key)
	if err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("delete %s: %w", key, err)
	}
	os.Remove(filepath.Dir(path)) // fails while the folder holds anything, which is right
	return nil
}

// removeTemporary deletes what writers that died have left: temporary files that nobody has written to since before.
func (d Dir) removeTemporary(_ context.Context, before time.Time) error {
	var old []string
	err := d.walk(func(key string, info fs.FileInfo) {
		if strings.HasPrefix(filepath.Base(key), temporaryPrefix) && info.ModTime().Before(before) {
			old = append(old, key)
		}
	})
	for _, key := range old {
		if e := os.Remove(filepath.Join(string(d), filepath.FromSlash(key))); e != nil && !errors.Is(e, fs.ErrNotExist) && err == nil {
			err = e
		}
	}
	return err
}

func (d Dir) path(key string) (string, error) {
	if err := checkKey(key); err != nil {
		return "", err
	}
	return filepath.Join(string(d), filepath.FromSlash(key)), nil
}

func checkKey(key string) error {
	if !fs.ValidPath(key) || key == "." {
		return fmt.Errorf("object key %q: want a relative path below the store", key)
	}
	return nil
}
