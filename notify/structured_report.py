"""Build a DICOM structured report of the result: Comprehensive SR, template TID 1500 (PS3.16 A).

It contains a flag, a probability and its threshold, observed by a device whose algorithm is named, and no statement
that only a reader may make. It stays preliminary and unverified.
"""

from typing import Any, Final

from notify.source_instance import SourceInstance
from pneumowatch import __version__
from pneumowatch.imaging.dicom import MANUFACTURER
from pneumowatch.notification import Notification

CODING_SCHEME: Final = "99PNEUMOWATCH"  # designator of a private coding scheme (PS3.16 8.2)
REPORT_SERIES_NUMBER: Final = 9801  # unlike any scanner's; a series is identified by its UID only
RESEARCH_REMARK: Final = (
    "Research and triage only; no medical device. An image that is not flagged is not cleared. "
    "The probability is a model's, and no reader has confirmed it."
)
AGE_REMARK: Final = "The patient's age is outside the age range of the model's training set."


def build_report(notification: Notification, source: SourceInstance) -> Any:
    """Build the data set of the report, the same at every repeat."""
    from highdicom.sr import ComprehensiveSR

    dataset: Any = ComprehensiveSR(
        evidence=[_evidence(source)],
        content=_content(notification, source),
        series_instance_uid=notification.uid("report series"),
        series_number=REPORT_SERIES_NUMBER,
        sop_instance_uid=notification.uid("report"),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=MANUFACTURER,
        series_description="pneumowatch: result (research use)",
        is_complete=True,
    )
    dataset.SoftwareVersions = [__version__, notification.model_version[:64]]
    set_result_time(dataset, notification)
    source.copy_patient_and_study(dataset)
    return dataset


def caution_sentence(notification: Notification) -> str | None:
    """Return the caution of a result as a sentence; None where there is none."""
    return (
        AGE_REMARK
        if notification.caution == "age"
        else f"Caution: {notification.caution}."
        if notification.caution
        else None
    )


def set_result_time(dataset: Any, notification: Notification) -> None:
    """Set all times to the result's, in this machine's time zone as DICOM requires, so that a repeat is the same."""
    at = notification.finished_at.astimezone()
    for what in ("InstanceCreation", "Content", "Series"):
        setattr(dataset, f"{what}Date", at.strftime("%Y%m%d"))
        setattr(dataset, f"{what}Time", at.strftime("%H%M%S"))
    for equipment in dataset.get("ContributingEquipmentSequence", ()):
        equipment.ContributionDateTime = at.strftime("%Y%m%d%H%M%S")


def _evidence(source: SourceInstance) -> Any:
    """Return the image as evidence for highdicom, without the patient: highdicom's errors quote invalid values."""
    from pydicom.dataset import Dataset

    evidence = Dataset()
    evidence.SOPClassUID, evidence.SOPInstanceUID = source.sop_class, source.sop_instance
    evidence.StudyInstanceUID, evidence.SeriesInstanceUID = source.study, source.series
    evidence.Rows, evidence.Columns = source.rows, source.columns
    for keyword in ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID"):
        setattr(evidence, keyword, "")
    evidence.StudyDate = evidence.StudyTime = None
    return evidence


def _content(notification: Notification, source: SourceInstance) -> Any:
    from highdicom import sr
    from pydicom.sr.codedict import codes

    device = sr.DeviceObserverIdentifyingAttributes(
        notification.device_uid, MANUFACTURER, manufacturer_name=MANUFACTURER, model_name=MANUFACTURER
    )
    observer = sr.ObserverContext(codes.DCM.Device, device)
    return sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer),
        procedure_reported=codes.SCT.ChestImaging,
        imaging_measurements=[_measurement_group(notification, source)],
    )


def _measurement_group(notification: Notification, source: SourceInstance) -> Any:
    from highdicom import sr
    from pydicom.sr.codedict import codes

    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(notification.uid("finding"), f"scan {notification.scan_id}"),
        algorithm_id=sr.AlgorithmIdentification(
            MANUFACTURER,
            notification.model_version,
            [f"threshold {notification.threshold:.6g}"],
            manufacturer=MANUFACTURER,
        ),
        finding_sites=[sr.FindingSite(codes.SCT.Lung)],
        measurements=[
            _measurement("probability", "Probability of pneumonia", notification.probability),
            _measurement("threshold", "Threshold for flagging", notification.threshold),
        ],
        qualitative_evaluations=[
            sr.QualitativeEvaluation(_code("flag", "Triage for pneumonia"), _code("flagged", "Flagged for pneumonia"))
        ],
        source_images=[sr.SourceImageForMeasurementGroup(source.sop_class, source.sop_instance)],
    )
    remarks = [RESEARCH_REMARK, *filter(None, [caution_sentence(notification)])]
    for remark in remarks:
        group[0].ContentSequence.append(
            sr.TextContentItem(codes.DCM.Comment, remark, sr.RelationshipTypeValues.CONTAINS)
        )
    return group


def _measurement(value: str, meaning: str, number: float) -> Any:
    from highdicom import sr
    from pydicom.sr.codedict import codes

    return sr.Measurement(_code(value, meaning), round(number, 6), codes.UCUM.NoUnits)


def _code(value: str, meaning: str) -> Any:
    from highdicom.sr import CodedConcept

    return CodedConcept(value, CODING_SCHEME, meaning)
