// Package check validates the arguments of a Group's operations, for every transport alike.
package check

import (
	"fmt"
	"math"
	"unicode/utf8"

	"github.com/zerofleet/zerofleet/collective"
	"github.com/zerofleet/zerofleet/kernels"
)

func invalid(op, format string, a ...any) error {
	return fmt.Errorf("%s: %w: %s", op, collective.ErrInvalid, fmt.Sprintf(format, a...))
}

func buffer(op, arg string, b collective.Buffer) error {
	w := b.Type.Bytes()
	if w == 0 {
		return invalid(op, "%s has type %s: want a type with a width", arg, b.Type)
	}
	if len(b.Bytes)%w != 0 {
		return invalid(op, "%s has %d bytes: want a multiple of %d for %s", arg, len(b.Bytes), w, b.Type)
	}
	if b.Len() > math.MaxInt32*64 {
		return invalid(op, "%s has %d elements: want at most %d", arg, b.Len(), math.MaxInt32*64)
	}
	return nil
}

func name(op, s string) error {
	if len(s) > collective.MaxNameBytes || !utf8.ValidString(s) {
		return invalid(op, "name %.32q of %d bytes: want valid UTF-8 of at most %d", s, len(s), collective.MaxNameBytes)
	}
	return nil
}

func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// AllGather checks the arguments and describes the operation.
func AllGather(size int, opName string, dst, shard collective.Buffer) (collective.Op, error) {
	op := collective.Op{Kind: collective.KindAllGather, Name: opName, Elems: shard.Len(), Type: shard.Type}
	at := "all-gather " + opName
	if err := first(name("all-gather", opName), buffer(at, "dst", dst), buffer(at, "shard", shard)); err != nil {
		return op, err
	}
	if dst.Type != shard.Type {
		return op, invalid(at, "dst is %s, shard is %s: want one type", dst.Type, shard.Type)
	}
	if len(dst.Bytes) != size*len(shard.Bytes) {
		return op, invalid(at, "dst has %d elements, shard %d: want %d for %d ranks", dst.Len(), shard.Len(), size*shard.Len(), size)
	}
	return op, nil
}

// ReduceScatter checks the arguments and describes the operation.
func ReduceScatter(rank, size int, opName string, acc collective.Accumulator, src collective.Buffer, firstLeaf, contributors int) (collective.Op, error) {
	op := collective.Op{Kind: collective.KindReduceScatter, Name: opName, Type: src.Type, FirstLeaf: firstLeaf, Contributors: contributors}
	at := "reduce-scatter " + opName
	if err := name("reduce-scatter", opName); err != nil {
		return op, err
	}
	if acc == nil {
		return op, invalid(at, "no accumulator")
	}
	op.Elems = acc.Len()
	if op.Elems < 0 || op.Elems > math.MaxInt32*64 {
		return op, invalid(at, "an accumulator of %d elements: want 0 to %d", op.Elems, math.MaxInt32*64)
	}
	if contributors < 1 || contributors > size {
		return op, invalid(at, "%d contributors: want 1 to %d, the world size", contributors, size)
	}
	if firstLeaf < 0 || firstLeaf > math.MaxInt32 {
		return op, invalid(at, "first leaf %d: want 0 to %d", firstLeaf, math.MaxInt32)
	}
	if rank >= contributors {
		if len(src.Bytes) != 0 {
			return op, invalid(at, "rank %d has no leaf among %d, but gives %d elements: want the zero Buffer", rank, contributors, src.Len())
		}
		op.Type = 0
		return op, nil
	}
	if src.Type != kernels.F32 && src.Type != kernels.BF16 && src.Type != kernels.Int8 {
		return op, invalid(at, "src is %s: want f32, bf16 or int8", src.Type)
	}
	if err := buffer(at, "src", src); err != nil {
		return op, err
	}
	if src.Len() != size*op.Elems {
		return op, invalid(at, "src has %d elements, the accumulator %d: want %d for %d ranks", src.Len(), op.Elems, size*op.Elems, size)
	}
	if op.Elems%src.Type.Block() != 0 {
		return op, invalid(at, "an accumulator of %d elements: want a multiple of %d for %s", op.Elems, src.Type.Block(), src.Type)
	}
	return op, nil
}

// AllReduce checks the arguments and describes the operation.
func AllReduce(opName string, buf collective.Buffer) (collective.Op, error) {
	op := collective.Op{Kind: collective.KindAllReduce, Name: opName, Elems: buf.Len(), Type: buf.Type}
	at := "all-reduce " + opName
	if err := first(name("all-reduce", opName), buffer(at, "buf", buf)); err != nil {
		return op, err
	}
	if buf.Type != kernels.F32 {
		return op, invalid(at, "buf is %s: want f32", buf.Type)
	}
	return op, nil
}

// Exchange checks the record and describes the operation.
func Exchange(record []byte) (collective.Op, error) {
	op := collective.Op{Kind: collective.KindExchange}
	if len(record) > collective.MaxRecordBytes {
		return op, invalid("exchange", "a record of %d bytes: want at most %d", len(record), collective.MaxRecordBytes)
	}
	return op, nil
}

// Transfer checks a send's or receive's arguments and describes the operation.
func Transfer(kind collective.Kind, rank, size int, opName string, peer int, buf collective.Buffer) (collective.Op, error) {
	op := collective.Op{Kind: kind, Name: opName, Elems: buf.Len(), Type: buf.Type, Peer: peer}
	at := kind.String() + " " + opName
	if err := first(name(kind.String(), opName), buffer(at, "buffer", buf)); err != nil {
		return op, err
	}
	if peer < 0 || peer >= size || peer == rank {
		return op, invalid(at, "rank %d and peer %d of %d: want another rank", rank, peer, size)
	}
	return op, nil
}

// Broadcast checks the arguments and describes the operation.
func Broadcast(size int, opName string, root int, buf collective.Buffer) (collective.Op, error) {
	op := collective.Op{Kind: collective.KindBroadcast, Name: opName, Elems: buf.Len(), Type: buf.Type, Peer: root}
	at := "broadcast " + opName
	if err := first(name("broadcast", opName), buffer(at, "buf", buf)); err != nil {
		return op, err
	}
	if root < 0 || root >= size {
		return op, invalid(at, "root %d: want a rank below %d", root, size)
	}
	return op, nil
}
