// Package integration holds the tests that are about the whole of meshswarm: the rules of the house (house_test.go:
// formatting, documents, the import order of the rooms) and whole clusters over a real container engine.
//
// It has no code of its own. What tests and examples share lies beside it: images makes container images without a
// registry.
package integration
