package kernels

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"

	"github.com/zeebo/xxh3"
)

// A Case is one Op at one of a job's shapes. Make takes the Op's buffers from the Arena; it is called twice, the
// first time on one that only counts.
type Case struct {
	Name string
	Make func(a *Arena) (Op, error)
}

// CaseSum is a Case's part of the fingerprint, in hexadecimal.
type CaseSum struct{ Name, Sum string }

// Fingerprint runs each case on inputs that are the same everywhere and returns the SHA-256, in hexadecimal, of the 128-bit
// xxh3 of all outputs, and each case's own to tell which kernel differs when two workers do: outputs have a gigabyte, and
// nobody forges them. Two backends with one fingerprint
// compute the same job to the same bits, as far as cases cover it: a product must have
// the job's shape, since that decides its tiles; a row-wise kernel may have fewer rows.
//
// Memory for one case at a time is taken from b and given back.
func Fingerprint(ctx context.Context, b Backend, cases []Case) (sum string, each []CaseSum, err error) {
	s, err := b.NewStream("fingerprint")
	if err != nil {
		return "", nil, fmt.Errorf("fingerprint: %w", err)
	}
	defer func() {
		if cerr := s.Close(); err == nil && cerr != nil {
			err = fmt.Errorf("fingerprint: %w", cerr)
		}
	}()
	total := sha256.New()
	for _, c := range cases {
		one, err := caseSum(ctx, b, s, c)
		if err != nil {
			return "", nil, fmt.Errorf("fingerprint: %s: %w", c.Name, err)
		}
		each = append(each, CaseSum{c.Name, hex.EncodeToString(one)})
		writeField(total, []byte(c.Name))
		writeField(total, one)
	}
	return hex.EncodeToString(total.Sum(nil)), each, nil
}

func caseSum(ctx context.Context, b Backend, s Stream, c Case) (sum []byte, err error) {
	var measure Arena
	if _, err := c.Make(&measure); err != nil {
		return nil, err
	}
	a, err := measure.Allocate(b)
	if err != nil {
		return nil, err
	}
	defer func() {
		if ferr := a.Free(); err == nil && ferr != nil {
			err = ferr
		}
	}()
	op, err := c.Make(a)
	if err != nil {
		return nil, err
	}
	if err := UploadSample(s, op); err != nil {
		return nil, err
	}
	if err := s.Launch(op); err != nil {
		return nil, err
	}
	h := sha256.New()
	writeField(h, []byte(op.Name()))
	for _, arg := range op.Args() {
		if arg.Access&Write == 0 {
			continue
		}
		out := make([]byte, arg.Buf.Bytes())
		if err := s.Download(out, arg.Buf); err != nil {
			return nil, err
		}
		if err := s.Sync(ctx); err != nil {
			return nil, err
		}
		writeField(h, []byte(arg.Name))
		bits := xxh3.Hash128(out).Bytes()
		writeField(h, bits[:])
	}
	return h.Sum(nil), nil
}

// UploadSample fills what op reads with numbers that are the same everywhere, within what it takes.
func UploadSample(s Stream, op Op) error {
	for i, arg := range op.Args() {
		if arg.Access&Read == 0 {
			continue
		}
		var f func(int, uint64) float64
		if p, ok := op.(Sampler); ok {
			f = p.Sample(arg.Name)
		}
		if err := s.Upload(arg.Buf, sampleBytes(arg.Buf.Type(), arg.Buf.Len(), uint64(i), f)); err != nil {
			return err
		}
	}
	return nil
}

// writeField writes a length before the bytes, so that no two lists of fields give one stream.
func writeField(h hash.Hash, b []byte) {
	var n [8]byte
	binary.LittleEndian.PutUint64(n[:], uint64(len(b)))
	h.Write(n[:]) // a hash returns no error
	h.Write(b)
}
