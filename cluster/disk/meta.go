package disk

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2"
	"github.com/hashicorp/raft"
)

// Keys that begin with a zero octet are the store's own. They are neither seen
// by views nor hashed.
var (
	metaKey  = []byte{0, 'm'}
	firstKey = []byte{1} // the first key that belongs to the spool
)

const metaVersion = 1

// meta says which prefix of the log the store contains. It is written in the
// same batch as the data, so that the two can not disagree.
type meta struct {
	index, term uint64
	config      []byte // as by raft.EncodeConfiguration
	configIndex uint64 // of the entry that brought config
}

// A meta is: version (1 octet), index, term, index of the configuration (8
// each, big endian), and the configuration (the rest).
func (m meta) encode(b []byte) []byte {
	b = append(b, metaVersion)
	b = binary.BigEndian.AppendUint64(b, m.index)
	b = binary.BigEndian.AppendUint64(b, m.term)
	b = binary.BigEndian.AppendUint64(b, m.configIndex)
	return append(b, m.config...)
}

var errMeta = errors.New("disk: damaged record of the applied index")

func decodeMeta(b []byte) (meta, error) {
	if len(b) < 25 || b[0] != metaVersion {
		return meta{}, errMeta
	}
	m := meta{
		index:       binary.BigEndian.Uint64(b[1:]),
		term:        binary.BigEndian.Uint64(b[9:]),
		configIndex: binary.BigEndian.Uint64(b[17:]),
	}
	if len(b) > 25 {
		m.config = append([]byte(nil), b[25:]...)
	}
	_, err := m.configuration()
	return m, err
}

// configuration decodes the members. Raft's decoder panics on damage.
func (m meta) configuration() (c raft.Configuration, err error) {
	if len(m.config) == 0 {
		return c, nil
	}
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", errMeta, r)
		}
	}()
	return raft.DecodeConfiguration(m.config), nil
}

func (m meta) same(o meta) bool {
	return m.index == o.index && m.term == o.term && m.configIndex == o.configIndex &&
		string(m.config) == string(o.config)
}

func readMeta(r pebble.Reader) (meta, error) {
	v, c, err := r.Get(metaKey)
	if errors.Is(err, pebble.ErrNotFound) {
		return meta{}, nil
	}
	if err != nil {
		return meta{}, err
	}
	defer c.Close()
	return decodeMeta(v)
}

// readDurableMeta reads what would be left after a power loss now: the tables,
// without what is only in memory.
func readDurableMeta(db *pebble.DB) (m meta, err error) {
	it, err := db.NewIter(&pebble.IterOptions{
		LowerBound: metaKey, UpperBound: firstKey, OnlyReadGuaranteedDurable: true,
	})
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, it.Close()) }()
	if !it.First() {
		return m, it.Error()
	}
	v, err := it.ValueAndErr()
	if err != nil {
		return m, err
	}
	return decodeMeta(v)
}
