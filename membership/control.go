package membership

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// ControlVersion is the control.json that this package writes and reads.
const ControlVersion = 1

// maxControlBytes bounds control.json: it holds one certificate and a few short strings.
const maxControlBytes = 1 << 20

// Control is a run folder's control.json: how to reach the job's coordinator, and as whom. The file has mode 0600, is
// replaced atomically by each new coordinator, and is read again at every reconnect.
type Control struct {
	Version int    `json:"version"`
	Job     string `json:"job"`
	Addr    string `json:"address"` // host:port of the coordinator's gRPC
	PID     int    `json:"pid"`     // of the coordinator
	// Authority is the job's certificate authority, PEM. Every connection of the job is held to it.
	Authority string `json:"authority"`
	// Certificate and Key are the caller's key pair: PEM files, relative to the control file's folder.
	Certificate string `json:"certificate"`
	Key         string `json:"key"`
	// Token goes with every call.
	Token string `json:"token"`
}

// Endpoint is a coordinator's address and what is needed to speak to it.
type Endpoint struct {
	Addr        string
	Token       string
	Credentials *Credentials
}

// Locator finds the coordinator; it is asked again at every reconnect.
type Locator func() (Endpoint, error)

// ControlFile locates a coordinator by a run folder's control.json.
func ControlFile(path string) Locator {
	return func() (Endpoint, error) {
		c, err := ReadControl(path)
		if err != nil {
			return Endpoint{}, err
		}
		return c.Endpoint(filepath.Dir(path))
	}
}

// Endpoint loads c's key pair, from files relative to dir.
func (c Control) Endpoint(dir string) (Endpoint, error) {
	creds, err := LoadCredentials([]byte(c.Authority), filepath.Join(dir, c.Certificate), filepath.Join(dir, c.Key))
	if err != nil {
		return Endpoint{}, err
	}
	return Endpoint{Addr: c.Addr, Token: c.Token, Credentials: creds}, nil
}

// ReadControl reads a control.json.
func ReadControl(path string) (Control, error) {
	info, err := os.Stat(path)
	if err != nil {
		return Control{}, fmt.Errorf("read control file: %w", err)
	}
	if info.Size() > maxControlBytes {
		return Control{}, fmt.Errorf("read control file %s: %d bytes, want at most %d", path, info.Size(), maxControlBytes)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return Control{}, fmt.Errorf("read control file: %w", err)
	}
	return decodeControl(path, b)
}

func decodeControl(path string, b []byte) (Control, error) {
	var c Control
	d := json.NewDecoder(bytes.NewReader(b))
	if err := d.Decode(&c); err != nil {
		return Control{}, fmt.Errorf("decode control file %s: %w", path, err)
	}
	if c.Version != ControlVersion {
		return Control{}, fmt.Errorf("decode control file %s: version %d, want %d", path, c.Version, ControlVersion)
	}
	if c.Addr == "" || c.Authority == "" || c.Certificate == "" || c.Key == "" {
		return Control{}, fmt.Errorf("decode control file %s: address, authority, certificate and key must be set", path)
	}
	return c, nil
}

// WriteControl replaces path by c, atomically and readable by its owner only.
func WriteControl(path string, c Control) error {
	c.Version = ControlVersion
	b, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return fmt.Errorf("encode control file: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".control-*")
	if err != nil {
		return fmt.Errorf("write control file: %w", err)
	}
	_, err = f.Write(append(b, '\n'))
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path) // CreateTemp made it with mode 0600
	}
	if err != nil {
		if e := os.Remove(f.Name()); e != nil && !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, e)
		}
		return fmt.Errorf("write control file %s: %w", path, err)
	}
	return nil
}
