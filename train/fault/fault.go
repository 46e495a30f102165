// Package fault names the points of a step and of a recovery at which tests end or stop a worker, or damage its memory. In a
// program built without the tag "faults" they do nothing and cost nothing; bin/worker-faults is built with it, and sets what happens.
package fault

// Point is a place in the life of a rank.
type Point string

// The points, in the order in which a rank passes them. Those of a step are numbered by the step that is open, those of a
// recovery by the generation that is being formed.
const (
	BeforeBackward Point = "before-backward" // the forward of the step's first leaf is done
	InBackward     Point = "in-backward"     // half of its units have their gradient
	InReduce       Point = "in-reduce"       // a reduction has begun
	AfterBackward  Point = "after-backward"  // every leaf is reduced, nothing is shipped
	InShip         Point = "in-ship"         // the gradient is on its way to the buddy
	AfterReceipt   Point = "after-receipt"   // the buddy has it, the record is not sent
	InExchange     Point = "in-exchange"     // the record is sent, the others' have not come
	Committed      Point = "committed"       // all records are here, nothing is written
	InUpdate       Point = "in-update"       // half of the units are updated
	InPublish      Point = "in-publish"      // the updated parameters are on their way
	InCheckpoint   Point = "in-checkpoint"   // a part is being written
	Shard          Point = "shard"           // the rank's own state, after the update
	Replica        Point = "replica"         // what it keeps of its ward, after the update

	BeforeReport Point = "before-report" // the generation is closed, the promise not given
	Sending      Point = "sending"       // a message of the handover has been sent
	Receiving    Point = "receiving"     // one has been received
	BeforeShare  Point = "before-share"  // all is in place, and the coordinator does not know
	AfterShare   Point = "after-share"   // it knows, and this rank does not know that all is settled
	InSave       Point = "in-save"       // a part of a state that is only saved is to be written
)

// Points are all of them.
var Points = []Point{BeforeBackward, InBackward, InReduce, AfterBackward, InShip, AfterReceipt, InExchange, Committed, InUpdate, InPublish,
	InCheckpoint, Shard, Replica, BeforeReport, Sending, Receiving, BeforeShare, AfterShare, InSave}
