package job

// Job is one job file with its defaults filled in. Its nested structs are the file's sections: a field's tags say the
// name in the file, the default, what is allowed and what it means, and they are the one source of the
// defaults, the checks, the JSON schema and docs/job.md.
//
//	yaml      the name in the file
//	default   YAML text; without it an absent or null field is the zero value, "not set"
//	derived   in words: what an absent field becomes, when that depends on other fields
//	enum      the allowed values, | between them
//	range     an interval of numbers: [ and ] include the end, ( and ) do not
//	required  must be written
//	doc       the meaning
//
// A Job that Load returned is valid. It is safe to read from several goroutines.
type Job struct {
	APIVersion string     `yaml:"apiVersion" default:"zerofleet/v1" enum:"zerofleet/v1" doc:"version of this document"`
	Name       string     `yaml:"name" derived:"the file's name" doc:"the job's name: letters, digits, '.', '_' and '-', at most 63"`
	Seed       uint64     `yaml:"seed" default:"42" range:"[0,9007199254740991]" doc:"what shuffling, a held-out part and random weights are functions of"`
	Model      Model      `yaml:"model" doc:"what is trained"`
	Method     Method     `yaml:"method" doc:"how it is trained"`
	Data       Data       `yaml:"data" doc:"what it is trained on"`
	Train      Train      `yaml:"train" doc:"the training"`
	Sharding   Sharding   `yaml:"sharding" doc:"what is cut among workers, and the exact sum"`
	Collective Collective `yaml:"collective" doc:"how workers talk to each other"`
	Workers    Workers    `yaml:"workers" doc:"how many processes compute, and with what"`
	Recovery   Recovery   `yaml:"recovery" doc:"how the job goes on when a worker is lost"`
	Checkpoint Checkpoint `yaml:"checkpoint" doc:"what is kept to resume from"`
	Eval       Eval       `yaml:"eval" doc:"evaluation"`
	Log        Log        `yaml:"log" doc:"what is told, and where"`
	Output     Output     `yaml:"output" doc:"what is left"`
	Resolved   *Pins      `yaml:"resolved" doc:"what submitting the job found; written to job.resolved.yaml, and checked when that file is submitted again"`

	at map[string]position // by path: where the file or a --set says it
}

// Model says what is trained.
type Model struct {
	Base         string `yaml:"base" required:"true" doc:"a Hugging Face folder, a .gguf file, hf://org/name, or preset://tiny or preset://tiny-untied (random weights)"`
	Tokenizer    string `yaml:"tokenizer" derived:"the model's" doc:"a tokenizer.json or the folder that has one"`
	ChatTemplate string `yaml:"chat_template" default:"auto" enum:"auto" doc:"auto: the model's own"`
}

// Method says how it is trained.
type Method struct {
	Type string `yaml:"type" default:"full" enum:"full" doc:"full: every parameter"`
}

// Data says what it is trained on.
type Data struct {
	Train        []Source `yaml:"train" required:"true" doc:"what to train on"`
	Eval         []Source `yaml:"eval" doc:"what to evaluate on"`
	EvalFraction float64  `yaml:"eval_fraction" range:"(0,1)" doc:"instead of data.eval: this fraction of data.train's records is held out"`
	SequenceLen  int      `yaml:"sequence_len" default:"512" range:"[2,16777216]" doc:"tokens in a sequence"`
	Packing      bool     `yaml:"packing" default:"true" doc:"put several documents into one sequence; they do not attend to each other"`
	LossOn       string   `yaml:"loss_on" enum:"assistant|completion|all" derived:"each format's own: messages: assistant; completion: completion; text: all" doc:"the tokens that count in the loss"`
	Overlong     string   `yaml:"overlong" default:"truncate" enum:"truncate|drop|error" doc:"what becomes of a record longer than a sequence"`
}

// Source is one set of records.
type Source struct {
	Path   string  `yaml:"path" required:"true" doc:"a file or a pattern with * ? [ ]: .jsonl, one record a line, or .txt, all of it text"`
	Format string  `yaml:"format" enum:"messages|completion|text" derived:"text for .txt, otherwise messages" doc:"what a record looks like"`
	Weight float64 `yaml:"weight" default:"1.0" range:"(0,1000000]" doc:"how often a record is seen in one epoch"`
}

// Train is the training.
type Train struct {
	Epochs                int       `yaml:"epochs" range:"[1,1000000]" doc:"passes over the data; or steps"`
	Steps                 int       `yaml:"steps" range:"[1,1000000000]" doc:"steps; or epochs"`
	GlobalBatchSize       int       `yaml:"global_batch_size" default:"16" range:"[1,1048576]" doc:"sequences in a step, the same at every world size"`
	MicroBatchSize        int       `yaml:"micro_batch_size" default:"2" range:"[1,1048576]" doc:"sequences that a worker computes at once; divides global_batch_size"`
	Leaf                  int       `yaml:"leaf" default:"1" enum:"1" doc:"micro-batches summed on one worker before a reduction"`
	Optimizer             Optimizer `yaml:"optimizer" doc:"the optimizer"`
	Schedule              Schedule  `yaml:"schedule" doc:"the learning rate over the steps"`
	Precision             string    `yaml:"precision" default:"bf16" enum:"f32|bf16" doc:"what activations and products are computed in; masters, moments and sums are f32"`
	MaxGradNorm           float64   `yaml:"max_grad_norm" default:"1.0" range:"[0,inf)" doc:"clip the gradient's L2 norm to this; 0: do not"`
	MaxSeconds            float64   `yaml:"max_seconds" range:"(0,1e9]" doc:"stop cleanly, with a checkpoint, after this long"`
	GradientCheckpointing Toggle    `yaml:"gradient_checkpointing" default:"auto" enum:"true|false|auto" doc:"keep only the blocks' inputs and compute the rest again in the backward; auto: when it does not fit otherwise"`
	OnNaN                 string    `yaml:"on_nan" default:"stop" enum:"stop" doc:"what a loss or gradient that is not finite does"`
}

// Leaves is the number of leaves in a step.
func (t Train) Leaves() int { return t.GlobalBatchSize / (t.MicroBatchSize * t.Leaf) }

// Optimizer is the optimizer and its constants.
type Optimizer struct {
	Name         string     `yaml:"name" default:"adamw" enum:"adamw" doc:"AdamW, decoupled decay; norms are not decayed"`
	LearningRate float64    `yaml:"learning_rate" default:"2.0e-5" range:"(0,1e3]" doc:"the peak, after the warm-up"`
	Betas        [2]float64 `yaml:"betas" default:"[0.9, 0.999]" range:"[0,1)" doc:"decay of the first and second moment"`
	Eps          float64    `yaml:"eps" default:"1.0e-8" range:"(0,1]" doc:"added to the denominator"`
	WeightDecay  float64    `yaml:"weight_decay" default:"0.0" range:"[0,1e3]" doc:"per step, times the learning rate"`
	StateBits    int        `yaml:"state_bits" default:"32" enum:"32" doc:"bits of each moment"`
}

// Schedule is the learning rate over the steps.
type Schedule struct {
	Name                 string  `yaml:"name" default:"cosine" enum:"constant|linear|cosine" doc:"what follows the warm-up"`
	WarmupSteps          int     `yaml:"warmup_steps" default:"20" range:"[0,1000000000]" doc:"steps of linear rise from 0"`
	MinLearningRateRatio float64 `yaml:"min_learning_rate_ratio" default:"0.1" range:"[0,1]" doc:"of the peak, reached at the last step"`
}

// Sharding is what is cut among workers, and the exact sum.
type Sharding struct {
	Stage     Stage  `yaml:"stage" default:"3" enum:"0|1|2|3|auto" doc:"what is cut: 0 nothing; 1 optimizer state; 2 and gradients; 3 and parameters; auto: the smallest that fits"`
	Wire      Wire   `yaml:"wire" doc:"the numeric formats that values are rounded to before they travel, at every world size"`
	Reduction string `yaml:"reduction" default:"fold" enum:"fold|tree8" doc:"the order of the exact sum: fold: leaf 0, 1, 2 ...; tree8: a balanced tree in each group of 8 leaves, then the groups in order, which takes three more f32 buffers of a part"`
	Exact     string `yaml:"exact" default:"required" enum:"required|preferred|off" doc:"the same bits at every world size. required: a worker whose kernels differ is refused; preferred: it is admitted, and the step at which the promise ended is recorded; off: nothing is promised, and sums may take any order"`
}

// Wire is the numeric formats of what travels.
type Wire struct {
	Parameters string `yaml:"parameters" enum:"f32|bf16|int8" derived:"train.precision" doc:"parameters, before they are computed with; int8: in blocks of 256 with one scale"`
	Gradients  string `yaml:"gradients" default:"f32" enum:"f32|bf16|int8" doc:"a leaf's gradient, before it is summed"`
}

// Collective is how workers talk to each other.
type Collective struct {
	Transport          string  `yaml:"transport" default:"auto" enum:"auto|grpc|lanes|shm" doc:"what carries the bytes: shm is memory that workers of one host read in place, lanes are connections of their own, grpc is gRPC streams; a link takes the fastest up to the one named that both its ends can use, auto any"`
	ReceiveBudgetBytes Bytes   `yaml:"receive_budget_bytes" default:"256MiB" range:"[1048576,1099511627776]" doc:"memory for what has arrived and is not added yet, per worker"`
	Checksum           bool    `yaml:"checksum" default:"true" doc:"check what arrives"`
	Overlap            bool    `yaml:"overlap" default:"true" doc:"gather the next unit and reduce the last while this one is computed; false: one after the other, to see what that saves"`
	DeadlineSeconds    float64 `yaml:"deadline_seconds" default:"60" range:"(0,86400]" doc:"a wait longer than this fails and names who has not arrived"`
}

// Workers is how many processes compute, and with what.
type Workers struct {
	Min               int     `yaml:"min" default:"1" range:"[1,65536]" doc:"the job starts with this many"`
	Max               int     `yaml:"max" default:"2" range:"[1,65536]" doc:"and uses at most this many; launch starts as many"`
	Device            string  `yaml:"device" default:"auto" enum:"cpu|cuda|auto" doc:"what computes; auto: a GPU where there is one and libzerofleet_cuda.so beside the worker"`
	Threads           int     `yaml:"threads" default:"1" range:"[1,4096]" doc:"CPU threads of a worker"`
	DeviceMemoryBytes Bytes   `yaml:"device_memory_bytes" range:"[1048576,1125899906842624]" derived:"what the device has" doc:"a worker's budget"`
	Restart           bool    `yaml:"restart" default:"false" doc:"start a worker again that died"`
	Spot              Spot    `yaml:"spot" doc:"what tells a worker that its machine goes"`
	OrphanSeconds     float64 `yaml:"orphan_seconds" default:"60" range:"[0,1e9]" doc:"without a coordinator for longer, a worker checkpoints and exits"`
}

// Spot is who warns a worker that its machine is taken away. A SIGTERM is always such a warning.
type Spot struct {
	Provider             string  `yaml:"provider" default:"none" enum:"aws|gcp|azure|file|none|auto" doc:"whose metadata service is asked; auto: the one that answers; file: only the file below"`
	File                 string  `yaml:"file" doc:"a file whose appearance is a notice, {id} in its path is the worker; it may hold {\"deadline_seconds\": 120, \"why\": \"...\"}"`
	GraceSeconds         float64 `yaml:"grace_seconds" default:"30" range:"[0,86400]" doc:"what a notice without a deadline gives"`
	PricePerHour         float64 `yaml:"price_per_hour" range:"[0,1000000]" doc:"what a worker costs, in any currency: status tells what was spent"`
	OnDemandPricePerHour float64 `yaml:"on_demand_price_per_hour" range:"[0,1000000]" doc:"what it would cost on a machine that stays: status tells what was saved"`
}

// Recovery is how a job goes on when a worker is lost.
type Recovery struct {
	Replicas    int    `yaml:"replicas" default:"1" range:"[0,1]" doc:"how many other workers keep each shard of the state; 0: a lost worker costs what came after the newest checkpoint"`
	ReplicaTier string `yaml:"replica_tier" default:"host" enum:"host" doc:"the memory that replicas are kept in"`
	BelowMin    string `yaml:"below_min" default:"wait" enum:"wait|fail" doc:"with fewer than workers.min: wait for others, or end the run"`
}

// Checkpoint is what is kept to resume from.
type Checkpoint struct {
	Store      string `yaml:"store" derived:"<output.dir>/checkpoints" doc:"a local folder, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or azblob://CONTAINER/PREFIX"`
	EverySteps int    `yaml:"every_steps" default:"200" range:"[0,1000000000]" doc:"0: only at the end"`
	Keep       int    `yaml:"keep" default:"3" range:"[1,1000000]" doc:"how many of the newest stay"`
	OnExit     bool   `yaml:"on_exit" default:"true" doc:"checkpoint when interrupted or orphaned"`
	// RetrySeconds bounds what a run waits for at its end; before that, nobody waits.
	RetrySeconds float64 `yaml:"retry_seconds" default:"300" range:"[0,1e9]" doc:"how long a run's last checkpoint is tried again while the store fails; then the run fails, and the one before is kept"`
}

// Eval is the evaluation.
type Eval struct {
	EverySteps int `yaml:"every_steps" default:"100" range:"[0,1000000000]" doc:"0: only at the end"`
}

// Log is what is told, and where.
type Log struct {
	EverySteps   int    `yaml:"every_steps" default:"1" range:"[1,1000000000]" doc:"a line for every so many steps"`
	TensorBoard  bool   `yaml:"tensorboard" default:"true" doc:"write TensorBoard files into the run folder"`
	OTLPEndpoint string `yaml:"otlp_endpoint" doc:"host:port or URL that takes OpenTelemetry over gRPC"`
}

// Output is what is left.
type Output struct {
	Dir     string   `yaml:"dir" derived:"runs/<name>" doc:"the run folder"`
	Formats []string `yaml:"formats" default:"[safetensors]" enum:"safetensors" doc:"what the trained model is written as"`
}

// Pins are what submitting the job found.
type Pins struct {
	Model       string   `yaml:"model" required:"true" doc:"content digest of model.base"`
	Tokenizer   string   `yaml:"tokenizer" doc:"content digest of model.tokenizer"`
	Train       []string `yaml:"train" required:"true" doc:"content digests of data.train"`
	Eval        []string `yaml:"eval" doc:"content digests of data.eval"`
	Fingerprint string   `yaml:"fingerprint" doc:"of the kernels: every worker must compute these bits; stored by the first generation's lowest rank"`
}
