// Whether everything that the tensor tables point at is still where it was.
//
// A table holds addresses, and an address is trusted only while it is checked: programs replace
// state, offload it, swap parameters, assign to .data. In every step one walk goes over the live
// parameter groups and the live state dict and asks each tensor where it lies. What has only moved
// is reported by table and column, so that the table can follow; anything else needs a new plan.
// yfkernels/ops/watch.py is the same in Python, for builds of torch without the exchange API.
#pragma once

#include <pybind11/pybind11.h>

#include <vector>

#include "dlpack.h"
#include "table.h"

namespace yfk {

// What a walk has found; any of them, or'ed.
enum Seen : int {
  kSame = 0,
  kMoved = 1,       // addresses of tables on a device: see moved()
  kCopy = 2,        // some gradient lies differently from its parameter, or is a lazy view
  kPlan = 4,        // the tables do not describe the optimizer any more
  kNoGradient = 8,  // no parameter has one
  kUpdated = 16,    // other parameters, or others that have a gradient: see present()
};

// Where the tables have a parameter.
enum class Place : int {
  kTable = 0,    // a row of a fused table
  kNowhere = 1,  // it has not had a gradient yet
  kEmpty = 2,    // no element of it is here
  kPlain = 3,    // on the torch backend, which takes tensors and no addresses
};

class Watch {
 public:
  // api: torch.Tensor.__dlpack_c_exchange_api__; is_neg, is_conj: the methods of torch.Tensor.
  // tables: of each the number of its rows, and where they are in host memory: new addresses are
  //   written there at once; 0 if they are on a device.
  // sizes: parameters of each group. entries: for each parameter
  //   (place, table, row, param, sharded, [(key, column, tensor, sharded)])
  // with the tensors as the tables were made for them, local parts where they are sharded.
  Watch(pybind11::capsule api, pybind11::object is_neg, pybind11::object is_conj,
        const std::vector<std::pair<int64_t, uintptr_t>>& tables, std::vector<int64_t> sizes,
        pybind11::list entries);

  int look(pybind11::list groups, pybind11::dict state);

  // (table, column, addresses) of what the last look has found moved, of tables on a device.
  pybind11::list moved() const;

  // The gradients' addresses in a table, 0 where there is none.
  const std::vector<int64_t>& present(size_t table) const {
    return tables_.at(table).addresses[kGrad];
  }

  // The gradients' addresses are to be reported again: copies have stood in for them.
  void forget_grads();

  // All addresses are to be reported again: nobody knows what the tables on the device hold.
  void forget();

 private:
  struct Layout {
    std::vector<int64_t> shape, strides;
    dlpack::DType dtype;
    dlpack::Device device;

    bool holds(const dlpack::Tensor& tensor) const;
  };
  struct State {
    pybind11::object key;
    int column;
    Layout layout;
    bool sharded;
  };
  struct Param {
    Place place;
    int64_t table, row;
    bool sharded;
    Layout layout;
    std::vector<State> states;
    const void* object = nullptr;  // compared, never followed
  };
  struct Table {
    TensorRow* host;  // null if they are on a device
    std::vector<int64_t> addresses[kColumns];
    bool moved[kColumns] = {};
  };

  bool describe(PyObject* object, bool sharded, dlpack::Tensor* out) const;
  bool describe_as(PyObject* object, bool sharded, const Layout& layout, int64_t* address) const;
  static Layout layout_of(const dlpack::Tensor& tensor);
  bool lazy(PyObject* grad, const dlpack::Tensor& tensor) const;
  bool same_placements(PyObject* grad, PyObject* param) const;
  bool gather(PyObject* groups);
  void find_states(PyObject* state);
  int look_at(size_t index);
  void put(const Param& param, int column, int64_t address, int* seen);

  pybind11::capsule capsule_;
  const dlpack::ExchangeApi* api_;
  pybind11::object is_neg_, is_conj_;
  pybind11::str params_key_, grad_name_, local_name_, spec_name_, placements_name_;
  std::vector<int64_t> sizes_;
  std::vector<Param> params_;
  std::vector<Table> tables_;
  std::vector<int64_t> order_;  // parameter at each place of the state dict, -1 for something else
  std::vector<pybind11::object> live_, live_states_;  // of one look
};

}  // namespace yfk
