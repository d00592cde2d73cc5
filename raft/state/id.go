package state

import (
	"crypto/rand"
	"fmt"
	"math/big"
	"strconv"
	"strings"
)

const (
	idLength  = 25
	idEntropy = 17 // bytes: a little more than 25 base36 digits hold
)

// NewID returns a random 25-character base36 identifier, as Swarm's.
func NewID() string {
	var p [idEntropy]byte
	_, _ = rand.Read(p[:]) // never fails (crypto/rand)
	p[0] |= 0x80           // makes the number long enough, so that no padding is needed
	return new(big.Int).SetBytes(p[:]).Text(36)[1 : idLength+1]
}

// RevisionKey is the primary key of a Revision.
func RevisionKey(serviceID string, specVersion uint64) string {
	return serviceID + "." + strconv.FormatUint(specVersion, 10)
}

func parseRevisionKey(key string) (serviceID string, specVersion uint64, err error) {
	i := strings.LastIndexByte(key, '.')
	if i < 0 {
		return "", 0, fmt.Errorf("%w: revision key %q has no spec version", ErrInvalid, key)
	}
	n, err := strconv.ParseUint(key[i+1:], 10, 64)
	if err != nil || RevisionKey(key[:i], n) != key {
		return "", 0, fmt.Errorf("%w: revision key %q has no proper spec version", ErrInvalid, key)
	}
	return key[:i], n, nil
}

// Name is service.slot.taskid, or service.nodeid.taskid for a task without a slot (global services).
func (t *Task) Name() string {
	if t.Slot != 0 {
		return t.ServiceName + "." + strconv.Itoa(t.Slot) + "." + t.ID
	}
	return t.ServiceName + "." + t.NodeID + "." + t.ID
}
