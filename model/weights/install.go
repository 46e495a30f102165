package weights

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/zerofleet/zerofleet/safetensors"
	"github.com/zerofleet/zerofleet/source"
)

var shardName = regexp.MustCompile(`^model-\d{5}-of-\d{5}\.safetensors$`)

// ours tells whether Save may have written a file of that name.
func ours(name string) bool {
	return name == "config.json" || name == safetensors.SingleName || name == safetensors.IndexName ||
		shardName.MatchString(name) || slices.Contains(source.Companions, name)
}

// Replaceable tells why Save may not put its folder at dir: something else lies there, or there is no folder to put it in.
func Replaceable(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		_, err := os.Stat(filepath.Dir(filepath.Clean(dir)))
		return err
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.Type().IsRegular() || !ours(e.Name()) {
			return fmt.Errorf("%s: is there and holds %s, which is not a model's: choose another folder or empty this one", dir, e.Name())
		}
	}
	return nil
}

// install makes temp, which is complete, the folder dir. An earlier dir is swapped out in
// one operation where the file system can, else moved away first; then it is removed.
func install(temp, dir string) error {
	if err := syncDir(temp); err != nil {
		return err
	}
	if err := replace(temp, dir); err != nil {
		return err
	}
	return syncDir(filepath.Dir(dir))
}

func replace(temp, dir string) error {
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		return os.Rename(temp, dir)
	}
	err := unix.Renameat2(unix.AT_FDCWD, temp, unix.AT_FDCWD, dir, unix.RENAME_EXCHANGE)
	if err == nil {
		return os.RemoveAll(temp) // now the earlier one
	}
	if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOSYS) {
		return fmt.Errorf("replace %s: %w", dir, err)
	}
	old := temp + ".old"
	if err := os.Rename(dir, old); err != nil {
		return err
	}
	if err := os.Rename(temp, dir); err != nil {
		return errors.Join(err, os.Rename(old, dir))
	}
	return os.RemoveAll(old)
}

// syncDir makes the names in dir survive a power cut.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
