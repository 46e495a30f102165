// Package data turns files of records into the micro-batches that a job trains
// on. Which tokens stand where is a function of the options, the records and the
// seed alone: not of the world size, the thread count, or how often the job was
// stopped and resumed.
//
// Call Open, then Dataset.Stream at a Cursor, then Stream.Next once a step and
// GlobalBatch.Leaf for each leaf that this rank computes.
//
//	files -> records -> documents (tokens, which of them count)      Open, once
//	documents -> order of the epoch -> sequences -> global batches   Stream.Next
//	global batch -> leaf i                                           GlobalBatch.Leaf
//
// Packing is of the global order, before any leaf is dealt to a rank. A sequence
// holds whole documents only, in order, until the next one does not fit; a
// document sees itself only (Batch.DocStart), and its last token predicts
// nothing. So a sequence boundary carries no state, and a Cursor, which names the
// next document, is all that a resume needs.
package data

// Batch is one micro-batch: B sequences of T tokens, row by row. Every slice has
// B*T elements, and the caller owns them.
type Batch struct {
	B, T int
	// Tokens are the inputs: ids below the encoder's vocabulary.
	Tokens []int32
	// Labels are already shifted: Labels[i] is the token after i in the same
	// document, or -1 when it does not count, and at a document's last token.
	Labels []int32
	// Positions restart at 0 with each document.
	Positions []int32
	// DocStart is the index, within its sequence, of the first token of the
	// document that a token belongs to: a token attends to [DocStart, itself].
	// A padding token is a document of its own: label -1, position 0.
	DocStart []int32
	// LossTokens is how many labels are not -1.
	LossTokens int
	// Sequences is how many rows hold documents; the rows after them are padding.
	Sequences int
}

// Cursor names the next record to consume: the Sample-th, from 0, in the order
// of epoch Epoch, from 0. The zero Cursor is the start of the job.
type Cursor struct {
	Epoch  int64 `json:"epoch"`
	Sample int64 `json:"sample"`
}
