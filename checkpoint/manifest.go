// Package checkpoint keeps a job's training state outside its workers: parts, one safetensors file a rank, and a
// manifest, which makes a checkpoint exist when it is committed.
//
// Objects of a checkpoint of step 40, written by generation 2 at world size 2:
//
//	step-0000000040/gen-2-part-0-of-2-<digest>.safetensors
//	step-0000000040/gen-2-part-1-of-2-<digest>.safetensors
//	step-0000000040/gen-2-manifest-<digest>.json
//
// <digest> is the first 16 hex digits of a manifest's SHA-256, or of that of a part's head; an object is never
// overwritten. A part holds, for every unit, the range of canonical elements that its rank owns, as three f32 tensors:
// <unit>/master, <unit>/m, <unit>/v. Each is cut into chunks of 32 KiB, and the part's first tensor has their checksums,
// so that any range is read and checked without the rest:
//
//	what         bytes                                    checked by
//	length       8, of the header's text                  \
//	header       safetensors: names, shapes, offsets       > head: the manifest's head_bytes and sha256
//	checksums    16 a chunk, U8 [chunks, 16]              /
//	fields       f32, little-endian, in the order of      the chunk's checksum: the 128-bit xxh3, big-endian, of 32 KiB,
//	             the manifest's units                     or of what is left at a field's end
//
// A manifest written without a coordinator is named gen-2-uncommitted-<digest>.json until one adopts it.
//
// OpenStore opens where checkpoints lie; WritePart and PutManifest write one, Newest and Open read it, Sweep removes what
// is no longer needed.
package checkpoint

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"

	"github.com/zerofleet/zerofleet/shard"
)

var (
	// ErrCorrupt marks a damaged checkpoint: the previous one is used.
	ErrCorrupt = errors.New("damaged checkpoint")
	// ErrVersion marks a checkpoint of a newer zerofleet: restoring stops.
	ErrVersion = errors.New("unsupported checkpoint version")
	// ErrNone says that there is no committed checkpoint.
	ErrNone = errors.New("no committed checkpoint")
)

// Version is the format that this package writes and reads.
const Version = 3

// maxManifestBytes bounds what a manifest may be: 64 MiB is a model of some hundred thousand tensors.
const maxManifestBytes = 64 << 20

// maxElems bounds a tensor, so that no product of a shape overflows.
const maxElems = 1 << 44

// Tensor is a trainable tensor: Elems elements at Offset in its unit's canonical order.
type Tensor struct {
	Name   string `json:"name"`
	Shape  []int  `json:"shape"`
	Offset int    `json:"offset"`
}

// Elems is the number of elements.
func (t Tensor) Elems() int {
	n := 1
	for _, d := range t.Shape {
		n *= d
	}
	return n
}

// Unit is a unit's tensors in canonical order, end to end.
type Unit struct {
	Name    string   `json:"name"`
	Elems   int      `json:"elems"`
	Tensors []Tensor `json:"tensors"`
}

// Part is one rank's file. Its head has a checksum for every chunk of the rest, so SHA256 stands for all of it.
type Part struct {
	Rank      int    `json:"rank"`
	Key       string `json:"key"`
	Bytes     int64  `json:"bytes"`
	HeadBytes int64  `json:"head_bytes"`
	SHA256    string `json:"sha256"` // of the head
}

// Cursor is where the data stream stands: the next record to consume.
type Cursor struct {
	Epoch  int64 `json:"epoch"`
	Sample int64 `json:"sample"`
}

// Manifest is a checkpoint: what was saved, and where.
type Manifest struct {
	Version       int             `json:"version"`
	Job           string          `json:"job"`
	Step          int64           `json:"step"`
	OptimizerStep int64           `json:"optimizer_step"`
	Generation    uint64          `json:"generation"`
	World         int             `json:"world"`
	Cursor        Cursor          `json:"cursor"`
	LossScale     float64         `json:"loss_scale"` // 1 without dynamic scaling
	Fingerprint   string          `json:"fingerprint"`
	Model         json.RawMessage `json:"model"` // config.json, as Hugging Face has it
	Units         []Unit          `json:"units"`
	Parts         []Part          `json:"parts"`
}

// Layout is how a unit was cut when the checkpoint was written.
func (m *Manifest) Layout(u Unit) (shard.Layout, error) { return shard.NewLayout(u.Elems, m.World) }

// Validate checks that the manifest is whole: every part there once, tensors end to end.
func (m *Manifest) Validate() error {
	if m.Version != Version {
		return fmt.Errorf("manifest version %d, want %d: %w", m.Version, Version, ErrVersion)
	}
	bad := func(format string, a ...any) error {
		return fmt.Errorf("manifest of step %d: "+format+": %w", append(append([]any{m.Step}, a...), ErrCorrupt)...)
	}
	if m.Step < 0 || m.OptimizerStep < 0 || m.OptimizerStep > m.Step || m.Generation < 1 || m.World < 1 {
		return bad("step %d, optimizer step %d, generation %d, world %d", m.Step, m.OptimizerStep, m.Generation, m.World)
	}
	if len(m.Parts) != m.World {
		return bad("%d parts, want %d", len(m.Parts), m.World)
	}
	for rank, p := range m.Parts {
		if p.Rank != rank || !fs.ValidPath(p.Key) || p.HeadBytes < 1 || p.HeadBytes > min(p.Bytes, maxHeadBytes) || len(p.SHA256) != 2*sha256.Size {
			return bad("part %d is of rank %d, key %q, %d bytes, %d of them its head, checksum %q", rank, p.Rank, p.Key, p.Bytes, p.HeadBytes, p.SHA256)
		}
	}
	seen := map[string]bool{}
	for _, u := range m.Units {
		at := 0
		for _, t := range u.Tensors {
			n := 1
			for _, d := range t.Shape {
				if d < 1 || d > maxElems/n {
					return bad("tensor %s has shape %v", t.Name, t.Shape)
				}
				n *= d
			}
			if seen[t.Name] || t.Offset != at {
				return bad("tensor %s of %s: offset %d, want %d, and every name once", t.Name, u.Name, t.Offset, at)
			}
			seen[t.Name] = true
			at += t.Elems()
		}
		if at != u.Elems || seen["unit "+u.Name] {
			return bad("unit %s: tensors fill %d of %d elements, and every name once", u.Name, at, u.Elems)
		}
		seen["unit "+u.Name] = true
	}
	if len(m.Units) == 0 {
		return bad("no units")
	}
	return nil
}

// Marshal validates and encodes m.
func (m *Manifest) Marshal() ([]byte, error) {
	if err := m.Validate(); err != nil {
		return nil, err
	}
	return json.MarshalIndent(m, "", " ")
}

// Decode reads a manifest: ErrCorrupt if it is damaged, ErrVersion if a newer zerofleet wrote it.
func Decode(b []byte) (*Manifest, error) {
	if len(b) > maxManifestBytes {
		return nil, fmt.Errorf("decode manifest: %d bytes, want at most %d: %w", len(b), maxManifestBytes, ErrCorrupt)
	}
	var head struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(b, &head); err != nil {
		return nil, fmt.Errorf("decode manifest: %w: %w", ErrCorrupt, err)
	}
	if head.Version != Version {
		return nil, fmt.Errorf("decode manifest: version %d, want %d: %w", head.Version, Version, ErrVersion)
	}
	var m Manifest
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	if err := d.Decode(&m); err != nil {
		return nil, fmt.Errorf("decode manifest: %w: %w", ErrCorrupt, err)
	}
	return &m, m.Validate()
}

func digest(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}
