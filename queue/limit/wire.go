package limit

// Ask is what a node says of itself, and wants, when it asks the leader. It names all keys at which the node holds or
// wants anything. Times are in microseconds.
type Ask struct {
	Epoch uint64 `json:"epoch"` // of the node's session
	Seq   uint64 `json:"seq"`   // ascending within the process
	Keys  []Want `json:"keys,omitempty"`
}

// Want is one key of an Ask.
type Want struct {
	Key    string         `json:"key"`
	Held   int            `json:"held,omitempty"`   // connections that it may have open now
	Open   int            `json:"open,omitempty"`   // connections that it has open
	Conns  int            `json:"conns,omitempty"`  // connections that it could use
	Tokens [2]int         `json:"tokens"`           // messages and recipients that it could begin
	Others map[string]int `json:"others,omitempty"` // what other nodes may hold, by the last answer
}

// Answer is the leader's to an Ask.
type Answer struct {
	Keys []Grant `json:"keys,omitempty"`
}

// Grant is the share of one key, from the answer on. It replaces the one before.
type Grant struct {
	Key   string `json:"key"`
	Conns int    `json:"conns"`
	// Slots are when each message, or each recipient, may begin, as seen from the ask; Life is for how long each of
	// them can be used.
	Slots  [2][]int64     `json:"slots"`
	Life   [2]int64       `json:"life"`
	Others map[string]int `json:"others,omitempty"`
}
