// Package secretstest makes authorities and identities for tests of other rooms.
package secretstest
