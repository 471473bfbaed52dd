//! Every parser of message bodies; what can be built again must come out as it was.
#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use tenantry_wire::{
    backend::{self, Authentication, ErrorFields},
    frontend::{self, Bind, BindHead, Execute, Parse, Target},
};

fn body(put: impl FnOnce(&mut BytesMut)) -> BytesMut {
    let mut out = BytesMut::new();
    put(&mut out);
    out.split_off(5)
}

fuzz_target!(|data: &[u8]| {
    if let Ok(parse) = Parse::decode(data) {
        let built =
            body(|out| frontend::put_parse_raw(out, parse.name, parse.text, parse.param_types));
        assert_eq!(&built[..], data);
    }
    if let Ok(bind) = Bind::decode(data) {
        let built =
            body(|out| frontend::put_bind_renamed(out, bind.portal, bind.statement, bind.rest));
        assert_eq!(&built[..], data);
        let head = BindHead::decode(data).unwrap();
        assert_eq!(&data[head.len..], bind.rest);
        let _ = bind.result_formats();
        if let Ok(parameters) = bind.parameters() {
            assert!(parameters.count() <= usize::from(u16::MAX));
        }
    }
    if let Ok(target) = Target::decode(data) {
        let built = body(|out| frontend::put_describe(out, target.kind, target.name));
        assert_eq!(&built[..], data);
    }
    if let Ok(execute) = Execute::decode(data) {
        let built = body(|out| frontend::put_execute(out, execute.portal, execute.max_rows));
        assert_eq!(&built[..], data);
    }
    if let Ok(fields) = ErrorFields::decode(data) {
        let built = body(|out| backend::put_error(out, &fields));
        assert_eq!(ErrorFields::decode(&built).unwrap().code, fields.code);
    }
    if let Ok(columns) = backend::columns(data) {
        let built = body(|out| backend::put_row_description(out, &columns));
        assert_eq!(&built[..], data);
    }
    if let Ok(values) = backend::data_row(data) {
        let built = body(|out| backend::put_data_row(out, &values));
        assert_eq!(&built[..], data);
    }
    let _ = frontend::query_text(data);
    let _ = frontend::function_call(data);
    let _ = frontend::sasl_initial(data);
    let _ = Authentication::decode(data);
    let _ = backend::error_code(data);
    let _ = backend::parameter_description(data);
    let _ = backend::parameter_status(data);
    let _ = backend::backend_key_data(data);
    let _ = backend::ready_for_query(data);
    let _ = backend::command_complete(data);
    let _ = backend::notification(data);
    let _ = backend::copy_response(data);
    let _ = backend::negotiate_protocol_version(data);
});
